"""Backups of a suite that keeps its data on this machine: one tar file, created while the suite runs."""
