"""The storage service: keeps artifacts, each distinct content once, and serves their bytes."""
