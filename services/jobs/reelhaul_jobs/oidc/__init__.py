"""Tokens of an identity provider: OpenID Connect."""
