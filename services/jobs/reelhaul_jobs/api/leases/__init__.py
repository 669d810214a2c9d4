"""LeaseService: its servicer, and the conversion of its messages."""
