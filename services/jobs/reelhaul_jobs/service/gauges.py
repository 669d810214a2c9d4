"""Gauges of jobs: what a scrape reads from the rows, the broker and the workers' reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from reelhaul_jobs.model import wait_reason
from reelhaul_jobs.model.queue_counts import QueueCounts, count_waiting
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.states import Priority, State
from reelhaul_jobs.model.wait_reason import WaitReason, WorkerAvailability
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import WorkerRegistry

T = TypeVar("T", State, WaitReason, Priority)

#: Seconds for which counts are kept: a scrape costs no query more often.
GAUGES_MAX_AGE_SECONDS = 10.0
#: Seconds that reading them may take.
GAUGES_TIMEOUT_SECONDS = 5.0
# Pauses after a count, in units of the time that it took.
_MIN_PAUSE = 20


class QueueGauges:
    """The gauges of rows; all replicas of one database report the same."""

    def __init__(
        self,
        queue: QueueStore,
        workers: WorkerRegistry,
        limits: SiteLimits,
        now: Clock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*clock*: monotonic seconds."""
        self._queue, self._workers, self._limits, self._now = queue, workers, limits, now
        self._clock = clock
        self._counts: QueueCounts | None = None
        self._count_again_at = float("-inf")

    async def read(self) -> Iterable[Metric]:
        """Return the gauges as of now. Raises Unavailable, REQUEST_TIMED_OUT."""
        now, active = self._now(), self._workers.active()
        counts = await self._count(now)
        shortage = wait_reason.find_shortage(active, counts.slots)
        workers = WorkerAvailability(any_alive=counts.slots > 0 or bool(active), shortage=shortage)
        return [*_queue_gauges(counts, workers, self._limits, now), *_worker_gauges(counts, self._workers)]

    async def _count(self, now: datetime) -> QueueCounts:
        """Count the rows; where that takes long, seldom: it takes a twentieth of the time at most."""
        if self._counts is None or self._clock() >= self._count_again_at:
            began = self._clock()
            self._counts = None
            self._counts = await self._queue.count_queue(now)
            ended = self._clock()
            self._count_again_at = ended + _MIN_PAUSE * (ended - began)
        return self._counts


class WorkItemGauges:
    """The gauge of the broker's window."""

    def __init__(self, bus: JobBus) -> None:
        self._bus = bus

    async def read(self) -> Iterable[Metric]:
        """Return the gauge as of now. Raises Unavailable."""
        gauge = GaugeMetricFamily(
            "reelhaul_work_items", "Work items that the broker stores", labels=["priority", "pool"]
        )
        for (priority, pool), items in (await self._bus.count_work_items_by_subject()).items():
            gauge.add_metric([priority.name, pool], items)
        return [gauge]


def _queue_gauges(
    counts: QueueCounts, workers: WorkerAvailability, limits: SiteLimits, now: datetime
) -> Iterable[Metric]:
    live = [state for state in State if not state.is_terminal]
    waiting = count_waiting(counts, workers, limits, now)
    # Running jobs: reelhaul_leases_expired_total counts them.
    reasons = [reason for reason in WaitReason if reason is not WaitReason.WORKER_LOST]
    ages = {priority: max(0.0, (now - since).total_seconds()) for priority, since in counts.oldest.items()}
    yield _gauge("reelhaul_jobs", "Jobs that have not ended", "state", live, counts.states)
    yield _gauge("reelhaul_jobs_waiting", "Jobs that wait", "wait_reason", reasons, waiting)
    yield _gauge("reelhaul_queue_depth", "Jobs that could start", "priority", list(Priority), counts.depth)
    yield _gauge(
        "reelhaul_queue_oldest_seconds",
        "Seconds that the oldest of them has waited",
        "priority",
        list(Priority),
        ages,
    )
    yield GaugeMetricFamily("reelhaul_sites_parked", "Sites that are parked", counts.parked_sites)
    yield GaugeMetricFamily(
        "reelhaul_webhook_backlog", "Events that webhooks are still to receive", counts.webhook_backlog
    )


def _worker_gauges(counts: QueueCounts, registry: WorkerRegistry) -> Iterable[Metric]:
    workers = GaugeMetricFamily("reelhaul_workers", "Fetchers that report to jobs", labels=["state"])
    workers.add_metric(["live"], len(registry.active()))
    workers.add_metric(["draining"], registry.count_draining())
    yield workers
    # A fetcher of another host may not be heard of yet, but claims.
    total = max(counts.slots, sum(worker.slots for worker in registry.active()))
    # Recordings run beside the slots.
    busy = min(counts.leased, total)
    slots = GaugeMetricFamily("reelhaul_worker_slots", "Slots of the fetchers", labels=["state"])
    slots.add_metric(["busy"], busy)
    slots.add_metric(["free"], total - busy)
    yield slots


def _gauge(name: str, text: str, label: str, keys: Iterable[T], values: Mapping[T, float]) -> Metric:
    """Return a gauge with a sample for each of *keys*, also where there is none of it."""
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for key in keys:
        gauge.add_metric([key.name], values.get(key, 0))
    return gauge
