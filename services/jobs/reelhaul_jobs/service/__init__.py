"""What one may do with jobs, and what the loops do with them."""
