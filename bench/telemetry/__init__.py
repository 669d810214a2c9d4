"""Benchmark ``telemetry``: what metrics and traces cost."""
