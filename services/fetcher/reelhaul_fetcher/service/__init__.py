"""Service: what a fetcher does; it decides, and calls ports."""
