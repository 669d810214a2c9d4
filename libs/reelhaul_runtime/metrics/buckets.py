"""Buckets of histograms, in seconds. Each is a series for each combination of labels."""

from __future__ import annotations

#: Calls and requests: from a cached answer to the longest deadline of a unary RPC.
CALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Work of a job: stages, waits, whole downloads.
WORK = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)
