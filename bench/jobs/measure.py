"""The queue: its speed, a million rows waiting, long lists, and a second caller's first job.

Parts: speed, million, fairness.
"""

from __future__ import annotations

from bench.jobs import backlog as million
from bench.jobs import fairness
from bench.jobs import throughput as speed
from bench.report import Report

_PARTS = {"speed": speed.measure, "million": million.measure, "fairness": fairness.measure}


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those of *only*."""
    for name, part in _PARTS.items():
        if not only or name in only:
            await part(report)
