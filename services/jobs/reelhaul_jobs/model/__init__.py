"""What is true of jobs by itself: states and their roads, leases, retries."""
