"""Shared by the gRPC client and the REST client: errors, retries, resuming a watch, saving files."""
