"""Benchmark of progress streams: latency from fetcher to gRPC client, and cost of the jobs service."""
