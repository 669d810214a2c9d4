"""Schedules: clocks that make jobs, and what they remember of the lists that they watch."""
