"""Side-by-side measurements: each a command that prints its ratios. ``python -m bench jobs``."""
