"""gRPC API of storage: the servicer and the conversion between protobuf and model."""
