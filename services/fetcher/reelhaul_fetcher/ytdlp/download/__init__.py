"""Downloading streams: plain HTTP files, fragments, parallel ranges and safe resume."""
