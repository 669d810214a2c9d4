"""The doors of jobs: one class per proto service; proto in, one call, proto out."""
