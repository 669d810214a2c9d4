"""The gRPC API: one package per proto service. In each, only the servicer calls the use cases."""
