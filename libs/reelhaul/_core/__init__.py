"""Shared by the gRPC clients and the REST clients: everything but the transport."""
