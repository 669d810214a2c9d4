"""Transcoding: google.api.http annotations served as REST/JSON by an ASGI application."""
