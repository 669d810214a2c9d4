"""Clients of other services: jobs, storage, LibreTranslate."""
