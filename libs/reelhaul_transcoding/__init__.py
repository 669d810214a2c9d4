"""Serve gRPC methods with google.api.http annotations as REST/JSON from an ASGI application."""
