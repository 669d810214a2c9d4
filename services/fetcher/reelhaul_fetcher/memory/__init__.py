"""The fetcher's world in memory: for tests and demos. Nothing survives the process."""
