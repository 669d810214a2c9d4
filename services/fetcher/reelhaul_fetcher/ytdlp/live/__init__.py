"""Recording of live streams."""
