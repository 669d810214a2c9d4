"""Collectors: values that a scrape reads from elsewhere, such as rows, pools and folders.

Counters and histograms of a service are objects of prometheus_client in its module ``metrics``; what is
read at a scrape is registered here by the composition root, for as long as the service runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from prometheus_client import REGISTRY, Counter
from prometheus_client.metrics_core import Metric

from reelhaul_runtime import logs

log = logging.getLogger(__name__)

#: Returns metrics with their samples, for example GaugeMetricFamily.
Read = Callable[[], Awaitable[Iterable[Metric]]]

COLLECTOR_FAILURES = Counter(
    "reelhaul_collector_failures_total", "Scrapes that lack values because reading them failed", ["collector"]
)


@contextmanager
def collecting(
    name: str, read: Read, *, max_age_seconds: float = 0.0, timeout_seconds: float = 2.0
) -> Iterator[None]:
    """Let scrapes of this process show what *read* returns, until the end of the block.

    A result is used for *max_age_seconds*: set it where reading costs a query. A scrape has no values of
    a *read* that raises, or takes more than *timeout_seconds*, and counts that by *name*.
    """
    collector = _CachedCollector(name, read, max_age_seconds, timeout_seconds)
    _COLLECTORS.append(collector)
    try:
        yield
    finally:
        _COLLECTORS.remove(collector)


async def refresh() -> None:
    """Read the values of all collectors whose results are too old."""
    await asyncio.gather(*(collector.refresh() for collector in _COLLECTORS))


class _CachedCollector:
    """The last result of a read."""

    def __init__(self, name: str, read: Read, max_age_seconds: float, timeout_seconds: float) -> None:
        self._name, self._read = name, read
        self._max_age_seconds, self._timeout_seconds = max_age_seconds, timeout_seconds
        self._read_at = -float("inf")
        self._lock = asyncio.Lock()
        self._outage = logs.Outage()
        self.metrics: list[Metric] = []
        COLLECTOR_FAILURES.labels(name)

    async def refresh(self) -> None:
        """Read again if the result is too old. Scrapes at the same time read once."""
        called_at = time.monotonic()
        async with self._lock:
            if self._read_at > called_at or time.monotonic() - self._read_at < self._max_age_seconds:
                return
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    self.metrics = list(await self._read())
                self._outage.end()
            except Exception as error:
                self.metrics = []
                COLLECTOR_FAILURES.labels(self._name).inc()
                if (level := self._outage.level()) is not None:
                    extra = {"collector": self._name, "cause": repr(error)}
                    log.log(level, "metrics cannot be read", extra=extra)
            self._read_at = time.monotonic()


class _AllCollectors:
    """Yields the last results of all collectors, for the registry."""

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the names are not known before the first scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        # Two collectors may have series of the same metric, for example of two disks or databases.
        families: dict[str, Metric] = {}
        for metric in chain.from_iterable(collector.metrics for collector in _COLLECTORS):
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += metric.samples
        return families.values()


_COLLECTORS: list[_CachedCollector] = []
REGISTRY.register(_AllCollectors())
