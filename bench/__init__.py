"""Benchmarks against named rivals. ``python -m bench jobs`` measures and prints ratios."""
