"""Model: what is true of a fetch by itself."""
