"""Fetcher: turns a claimed job into verified files."""
