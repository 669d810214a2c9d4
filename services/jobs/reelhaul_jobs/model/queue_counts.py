"""Counts of the queue for metrics: what jobs wait for, and since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul_jobs.model.rate_limit import SiteLimits, SiteStatus
from reelhaul_jobs.model.states import Priority, State
from reelhaul_jobs.model.wait_reason import (
    Shortage,
    WaitReason,
    WorkerAvailability,
    explain_site_wait,
    reason_of_release,
)


@dataclass(frozen=True, slots=True)
class ReadyGroup:
    """Ready jobs of one site whose key and tenant may have more running jobs, or not."""

    site: str
    jobs: int
    #: Whether the key or the tenant has as many running jobs as it may.
    quota_full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """Jobs that have not ended, as of one snapshot of the rows. Each number has a limit."""

    #: Jobs by state.
    states: Mapping[State, int]
    #: Ready and published jobs by priority, and when the oldest of each could start.
    depth: Mapping[Priority, int]
    oldest: Mapping[Priority, datetime]
    ready: Sequence[ReadyGroup] = ()
    published: int = 0
    leased: int = 0
    #: Queued jobs that wait for a time: for their schedule_time, and by the error they were released with.
    scheduled: int = 0
    released: Mapping[str, int] = field(default_factory=dict)
    #: The sites of *ready* jobs that have a limit, or jobs in flight.
    sites: Mapping[str, SiteStatus] = field(default_factory=dict)
    parked_sites: int = 0
    #: Slots of the workers that renewed or claimed lately.
    slots: int = 0
    #: Events that webhooks are still to receive, in the outbox and as deliveries.
    webhook_backlog: int = 0


def count_waiting(
    counts: QueueCounts, workers: WorkerAvailability, limits: SiteLimits, now: datetime
) -> Mapping[WaitReason, int]:
    """Return how many jobs wait for what, as ``wait_reason.explain_wait`` would say of each."""
    waiting = Counter[WaitReason](
        {
            WaitReason.BACKOFF: counts.states.get(State.RETRYING, 0),
            WaitReason.PAUSED: counts.states.get(State.PAUSED, 0),
            WaitReason.SCHEDULED: counts.scheduled,
        }
    )
    for name, jobs in counts.released.items():
        waiting[reason_of_release(name)] += jobs
    shortage = _shortage_reason(workers)
    waiting[shortage or WaitReason.IN_QUEUE] += counts.published
    for group in counts.ready:
        waiting[_explain_group(group, counts, shortage, limits, now)] += group.jobs
    return waiting


def _explain_group(
    group: ReadyGroup,
    counts: QueueCounts,
    shortage: WaitReason | None,
    limits: SiteLimits,
    now: datetime,
) -> WaitReason:
    if shortage is WaitReason.NO_WORKER:
        return shortage
    if group.quota_full:
        return WaitReason.QUOTA
    status = counts.sites.get(group.site)
    site = explain_site_wait(status, limits, now) if status is not None else None
    if site is not None:
        return site.reason
    return shortage or WaitReason.IN_QUEUE


def _shortage_reason(workers: WorkerAvailability) -> WaitReason | None:
    if not workers.any_alive:
        return WaitReason.NO_WORKER
    if workers.shortage is None:
        return None
    is_disk = workers.shortage.shortage is Shortage.DISK
    return WaitReason.DISK_FULL if is_disk else WaitReason.EGRESS_SPENT
