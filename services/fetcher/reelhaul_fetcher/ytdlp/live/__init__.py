"""Recording live streams."""
