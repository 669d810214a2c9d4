"""The storage service's world in memory: for tests, demos and laptops. Nothing survives the process."""
