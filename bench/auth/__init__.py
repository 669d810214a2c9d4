"""Benchmark of authentication and rate limits: what they add to a call."""
