"""Use cases of storage: uploads, artifacts and garbage collection."""
