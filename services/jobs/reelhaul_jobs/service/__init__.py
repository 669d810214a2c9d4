"""Use cases of the API, and the background loops."""
