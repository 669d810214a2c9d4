"""Pure rules: states and transitions, leases, retries, rate limits, schedules."""
