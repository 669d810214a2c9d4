"""Up: the suite on one machine, as processes that are kept alive and end together."""
