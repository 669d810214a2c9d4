"""Benchmark of the codec: messages to JSON and back, against json_format."""
