"""Routing: google.api.http rules, path templates, and the router that matches paths to methods."""
