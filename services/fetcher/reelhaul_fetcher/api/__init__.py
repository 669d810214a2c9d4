"""gRPC API of the fetcher: the servicer and the conversion between protobuf and model."""
