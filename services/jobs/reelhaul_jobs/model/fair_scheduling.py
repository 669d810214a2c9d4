"""Which ready jobs are published next: fair between tenants, within what each site bears."""

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
    """A job that could be published now."""

    id: str
    attempt: int
    tenant: str
    priority: Priority
    traceparent: str = ""
    site: str = ""
    #: Its rank: of one tenant's jobs the lowest goes first.
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class InFlightCounts:
    """What is published and leased already."""

    by_tenant: Mapping[str, int] = field(default_factory=dict)
    #: By tenant and site.
    by_tenant_and_site: Mapping[tuple[str, str], int] = field(default_factory=dict)


def select_fairly(
    ready: Mapping[str, Sequence[ReadyJob]],
    count: int,
    *,
    in_flight: InFlightCounts | None = None,
    free_slots: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[ReadyJob]:
    """The next *room* jobs: always one of the tenant that holds the least for its weight.

    *ready* has each tenant's jobs in their order, *rooms* how many more each site bears. A
    full site holds nothing up: the tenant's next job of another site goes instead.
    """
    in_flight, weights = in_flight or InFlightCounts(), weights or {}
    seated = apply_site_limits(ready, in_flight, free_slots or {}, weights)
    order = [
        (in_flight.by_tenant.get(tenant, 0) / weights.get(tenant, 1.0), place, tenant, iter(jobs))
        for place, (tenant, jobs) in enumerate(seated.items())
    ]
    picked: list[ReadyJob] = []
    heapify(order)
    while order and len(picked) < count:
        share, place, tenant, jobs = order[0]
        job = next(jobs, None)
        if job is None:
            heappop(order)
            continue
        picked.append(job)
        heapreplace(order, (share + 1 / weights.get(tenant, 1.0), place, tenant, jobs))
    return picked


def window_size(slots: int, drained: float, ceiling: int = 4096) -> int:
    """How many items may lie unclaimed for workers of *slots*, who drained so many a second lately.

    What lies there is served before whoever comes next, so it is kept short: enough for the
    slots that fall free until the next step, and for half a second of what is drained.
    """
    waiting = max(1, slots // 2) if slots else 4
    return min(ceiling, max(waiting, int(drained / 2)))


def apply_site_limits(
    ready: Mapping[str, Sequence[ReadyJob]],
    held: InFlightCounts,
    rooms: Mapping[str, int],
    weights: Mapping[str, float],
) -> dict[str, list[ReadyJob]]:
    """*ready* without the jobs that their sites have no room for."""
    asking: dict[str, dict[str, list[ReadyJob]]] = defaultdict(lambda: defaultdict(list))
    for tenant, jobs in ready.items():
        for job in jobs:
            asking[job.site][tenant].append(job)
    seats: set[str] = set()
    for site, queues in asking.items():
        room = rooms.get(site, UNLIMITED)
        if sum(len(jobs) for jobs in queues.values()) <= room:
            seats.update(job.id for jobs in queues.values() for job in jobs)
        else:
            seats.update(job.id for job in split_site_slots(site, queues, room, held, weights))
    return {tenant: [job for job in jobs if job.id in seats] for tenant, jobs in ready.items()}


def split_site_slots(
    site: str,
    queues: Mapping[str, Sequence[ReadyJob]],
    room: int,
    held: InFlightCounts,
    weights: Mapping[str, float],
) -> Iterator[ReadyJob]:
    """The *room* jobs of one site that get its seats.

    By what each tenant holds at this site, then by age: who holds much elsewhere would
    else never be let in here.
    """
    waiting = {tenant: list(reversed(jobs)) for tenant, jobs in queues.items()}
    here = {
        tenant: held.by_tenant_and_site.get((tenant, site), 0) / weights.get(tenant, 1.0) for tenant in queues
    }
    for _ in range(room):
        tenant = min(waiting, key=lambda name: (here[name], *_age(waiting[name][-1])), default=None)
        if tenant is None:
            return
        yield waiting[tenant].pop()
        here[tenant] += 1 / weights.get(tenant, 1.0)
        if not waiting[tenant]:
            del waiting[tenant]


def _age(job: ReadyJob) -> tuple[float, str]:
    return (job.due.timestamp() if job.due else 0.0, job.id)
