"""Benchmark of the idle suite: memory, CPU and start."""
