"""Validation: the limits of requests, the same at every service that takes them."""
