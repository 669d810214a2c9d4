"""Benchmark of the gateway: the cost of transcoding, against Envoy and FastAPI."""
