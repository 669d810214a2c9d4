"""Authentication: who sent a call, which credential proves it, and what else is checked with it."""
