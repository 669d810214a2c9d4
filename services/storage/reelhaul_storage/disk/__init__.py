"""Disk: bytes as files, in one folder of one filesystem."""
