"""Between FetcherService's messages and the model: bounds of what comes in."""
