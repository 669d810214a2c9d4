"""Metrics for Prometheus: those of all services, values that a scrape reads, and their HTTP server."""
