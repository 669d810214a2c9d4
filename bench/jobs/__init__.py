"""Benchmark of the jobs service: throughput against Celery, long backlogs, and fairness between tenants."""
