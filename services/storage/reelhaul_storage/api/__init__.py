"""gRPC API of storage: the StorageService servicer and the conversion between protobuf and model."""
