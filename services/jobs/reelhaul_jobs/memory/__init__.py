"""The twins of the stores and of the bus: for tests, demos and laptops. Nothing survives the process."""
