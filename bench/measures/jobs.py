"""The queue: admission, end to end, a million rows waiting, long lists, and a second caller's first job.

Parts: speed, backlog, lists, fairness. The rival of the first is Celery with Redis, both made
as durable as they can be.
"""

from __future__ import annotations

from bench.queue import backlog, fairness, lists, speed
from bench.report import Report

_PARTS = {
    "speed": speed.measure,
    "backlog": backlog.measure,
    "lists": lists.measure,
    "fairness": fairness.measure,
}


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those of *only*."""
    for name, part in _PARTS.items():
        if not only or name in only:
            await part(report)
