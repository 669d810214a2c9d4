"""Fair scheduling: which ready jobs are published next, fair between tenants and within site limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace

from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import Priority


@dataclass(frozen=True, slots=True)
class ReadyJob:
    """A job that may be published."""

    id: str
    attempt: int
    tenant: str
    priority: Priority
    traceparent: str = ""
    site: str = ""
    #: Its rank: the lowest of a tenant's jobs goes first.
    due: datetime | None = None
    #: Id of its key; empty without one.
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class InFlightCounts:
    """Numbers of published and leased jobs."""

    by_tenant: Mapping[str, int] = field(default_factory=dict)
    by_tenant_and_site: Mapping[tuple[str, str], int] = field(default_factory=dict)
    by_key: Mapping[str, int] = field(default_factory=dict)


def select_fairly(
    ready: Mapping[str, Sequence[ReadyJob]],
    count: int,
    *,
    in_flight: InFlightCounts | None = None,
    free_slots: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[ReadyJob]:
    """Return the next *count* jobs; each is of the tenant with the fewest jobs in flight for its weight.

    *ready* has each tenant's jobs in order, *free_slots* the number of further jobs per site. Jobs of a full
    site are skipped: the tenant's next job of another site is taken.
    """
    in_flight, weights = in_flight or InFlightCounts(), weights or {}
    allowed = apply_site_limits(ready, in_flight, free_slots or {}, weights)
    heap = [
        (in_flight.by_tenant.get(tenant, 0) / weights.get(tenant, 1.0), index, tenant, iter(jobs))
        for index, (tenant, jobs) in enumerate(allowed.items())
    ]
    selected: list[ReadyJob] = []
    heapify(heap)
    while heap and len(selected) < count:
        share, index, tenant, jobs = heap[0]
        job = next(jobs, None)
        if job is None:
            heappop(heap)
            continue
        selected.append(job)
        heapreplace(heap, (share + 1 / weights.get(tenant, 1.0), index, tenant, jobs))
    return selected


def window_size(slots: int, drain_rate: float, ceiling: int = 4096) -> int:
    """Return how many work items may be unclaimed, for workers of *slots* that claim *drain_rate* a second.

    Unclaimed items are served before any job that comes later, so the window is short: enough for the slots
    that become free until the next step, and for half a second of claims.
    """
    waiting = max(1, slots // 2) if slots else 4
    return min(ceiling, max(waiting, int(drain_rate / 2)))


def site_share(slots: int) -> int:
    """Return how many of the workers' *slots* one site may use while jobs of other sites wait: all but one.

    Thus a site with long downloads never blocks the jobs of all other sites.
    """
    return slots - 1 if slots > 1 else UNLIMITED


def apply_concurrency_limits(
    jobs: Sequence[ReadyJob], tenant_room: int, key_room: Mapping[str, int]
) -> list[ReadyJob]:
    """Return the *jobs* of one tenant, in order, that it and their keys may have more in flight.

    *tenant_room*: how many the tenant may; *key_room*: how many each key may, others any number.
    """
    allowed, room = list[ReadyJob](), dict(key_room)
    for job in jobs:
        if len(allowed) >= tenant_room:
            break
        if room.get(job.api_key, UNLIMITED) > 0:
            allowed.append(job)
            room[job.api_key] = room.get(job.api_key, UNLIMITED) - 1
    return allowed


def apply_site_limits(
    ready: Mapping[str, Sequence[ReadyJob]],
    in_flight: InFlightCounts,
    free_slots: Mapping[str, int],
    weights: Mapping[str, float],
) -> dict[str, list[ReadyJob]]:
    """Return *ready* without the jobs that exceed the free slots of their sites."""
    by_site: dict[str, dict[str, list[ReadyJob]]] = defaultdict(lambda: defaultdict(list))
    for tenant, jobs in ready.items():
        for job in jobs:
            by_site[job.site][tenant].append(job)
    allowed: set[str] = set()
    for site, queues in by_site.items():
        slots = free_slots.get(site, UNLIMITED)
        if sum(len(jobs) for jobs in queues.values()) <= slots:
            allowed.update(job.id for jobs in queues.values() for job in jobs)
        else:
            allowed.update(job.id for job in split_site_slots(site, queues, slots, in_flight, weights))
    return {tenant: [job for job in jobs if job.id in allowed] for tenant, jobs in ready.items()}


def split_site_slots(
    site: str,
    queues: Mapping[str, Sequence[ReadyJob]],
    slots: int,
    in_flight: InFlightCounts,
    weights: Mapping[str, float],
) -> Iterator[ReadyJob]:
    """Yield the jobs that get the *slots* of one site.

    Tenants are ordered by their jobs in flight at this site, then by the age of their first job. Their jobs
    elsewhere do not count: else a busy tenant would never get a slot here.
    """
    waiting = {tenant: list(reversed(jobs)) for tenant, jobs in queues.items()}
    shares = {
        tenant: in_flight.by_tenant_and_site.get((tenant, site), 0) / weights.get(tenant, 1.0)
        for tenant in queues
    }
    for _ in range(slots):
        tenant = min(waiting, key=lambda name: (shares[name], *_rank(waiting[name][-1])), default=None)
        if tenant is None:
            return
        yield waiting[tenant].pop()
        shares[tenant] += 1 / weights.get(tenant, 1.0)
        if not waiting[tenant]:
            del waiting[tenant]


def _rank(job: ReadyJob) -> tuple[float, str]:
    return (job.due.timestamp() if job.due else 0.0, job.id)
