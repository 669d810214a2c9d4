"""Fair scheduling: which ready jobs are published next, fair between tenants and within site limits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from itertools import islice

from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import Priority

_MIN_JOBS_PER_TENANT = 8
# Sites whose virtual times are kept.
_MAX_SITES = 1_000


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


class VirtualTime:
    """How much each tenant was served for its weight while it had jobs waiting.

    It decides between tenants that have equally many jobs in flight. Without it the same tenants would come
    first each time, and where there are more tenants than slots the others never.
    https://dl.acm.org/doi/10.1145/248156.248171 (start-time fair queueing)
    """

    def __init__(self) -> None:
        # Where a tenant begins that did not wait before; only later times are kept.
        self._floor = 0.0
        self._times: dict[str, float] = {}
        self._lowest = math.inf

    def get(self, tenant: str) -> float:
        """Return the time of *tenant*: the lowest is served next."""
        return max(self._floor, self._times.get(tenant, 0.0))

    def advance(self, tenant: str, weight: float) -> None:
        """Record that a job of *tenant* was selected."""
        self._times[tenant] = self.get(tenant) + 1 / weight

    def observe(self, tenants: Iterable[str]) -> None:
        """Record that *tenants* have jobs waiting."""
        self._lowest = min(self._lowest, min(map(self.get, tenants), default=math.inf))

    def end_round(self) -> None:
        """Raise the floor to the lowest time of the tenants observed since the last round."""
        if self._lowest < math.inf:
            self._floor = max(self._floor, self._lowest)
            self._lowest = math.inf
            self._times = {tenant: time for tenant, time in self._times.items() if time > self._floor}


class ServiceHistory:
    """The virtual times of the tenants, overall and at each site."""

    def __init__(self) -> None:
        self.overall = VirtualTime()
        # The site selected last is the last one.
        self._sites: dict[str, VirtualTime] = {}

    def at_site(self, site: str) -> VirtualTime:
        """Return the virtual times at *site*."""
        return self._sites.get(site) or VirtualTime()

    def record(
        self,
        ready: Mapping[str, Sequence[ReadyJob]],
        selected: Sequence[ReadyJob],
        weights: Mapping[str, float],
        *,
        ends_round: bool,
    ) -> None:
        """Record the jobs *selected* of *ready*. *ends_round*: all tenants were read since the last round."""
        for job in selected:
            weight = weights.get(job.tenant, 1.0)
            self.overall.advance(job.tenant, weight)
            at_site = self._sites.pop(job.site, VirtualTime())
            at_site.advance(job.tenant, weight)
            self._sites[job.site] = at_site
        while len(self._sites) > _MAX_SITES:
            del self._sites[next(iter(self._sites))]
        self.overall.observe(ready)
        for tenant, jobs in ready.items():
            for site in {job.site for job in jobs} & self._sites.keys():
                self._sites[site].observe([tenant])
        if ends_round:
            for times in (self.overall, *self._sites.values()):
                times.end_round()


def select_fairly(
    ready: Mapping[str, Sequence[ReadyJob]],
    count: int,
    *,
    in_flight: InFlightCounts | None = None,
    free_slots: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    history: ServiceHistory | None = None,
) -> list[ReadyJob]:
    """Return the next *count* jobs; each is of the tenant with the fewest jobs in flight for its weight.

    Of several such tenants it is the one that *history* says was served least. *ready* has each tenant's jobs
    in order, *free_slots* the number of further jobs per site. Jobs of a full site are skipped: the tenant's
    next job of another site is taken.
    """
    in_flight, weights, history = in_flight or InFlightCounts(), weights or {}, history or ServiceHistory()
    allowed = apply_site_limits(ready, in_flight, free_slots or {}, weights, history)
    return list(islice(_merge_fairly(allowed, in_flight.by_tenant, weights, history.overall), max(0, count)))


def _merge_fairly(
    queues: Mapping[str, Sequence[ReadyJob]],
    in_flight: Mapping[str, int],
    weights: Mapping[str, float],
    times: VirtualTime,
) -> Iterator[ReadyJob]:
    """Yield the jobs of *queues*, which belong to one tenant each, in the order in which they are due.

    Tenants are compared by their jobs *in_flight* for their weights, in whole jobs of the lowest weight, then
    by their virtual *times*, then by the age of their next jobs.
    """
    lowest = min((weights.get(tenant, 1.0) for tenant in queues), default=1.0)

    def entry(tenant: str, number: int, time: float) -> tuple[int, float, tuple[float, str], str, int]:
        weight = weights.get(tenant, 1.0) / lowest
        running = in_flight.get(tenant, 0) + number
        return int(running / weight), time, _rank(queues[tenant][number]), tenant, number

    heap = [entry(tenant, 0, times.get(tenant)) for tenant, jobs in queues.items() if jobs]
    heapify(heap)
    while heap:
        _, time, _, tenant, number = heap[0]
        yield queues[tenant][number]
        if number + 1 < len(queues[tenant]):
            heapreplace(heap, entry(tenant, number + 1, time + 1 / weights.get(tenant, 1.0)))
        else:
            heappop(heap)


def window_size(slots: int, drain_rate: float, ceiling: int = 4096) -> int:
    """Return how many work items may be unclaimed, for workers of *slots* that claim *drain_rate* a second.

    Unclaimed items are served before any job that comes later, so the window is short: enough for the slots
    that become free until the next step, and for half a second of claims.
    """
    waiting = max(1, slots // 2) if slots else 4
    return min(ceiling, max(waiting, int(drain_rate / 2)))


def jobs_per_tenant(room: int, tenants: int) -> int:
    """Return how many ready jobs of each of *tenants* are read, where *room* more may be published.

    Enough for a tenant that has four times its share; if that was too few, the next step reads more.
    """
    return min(room, max(_MIN_JOBS_PER_TENANT, 4 * room // max(1, tenants)))


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
    history: ServiceHistory,
) -> dict[str, list[ReadyJob]]:
    """Return *ready* without the jobs that exceed the free slots of their sites.

    The slots of a site are divided by the tenants' jobs at this site. Their jobs elsewhere do not count: else
    a busy tenant would never get a slot here.
    """
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
            running = {tenant: in_flight.by_tenant_and_site.get((tenant, site), 0) for tenant in queues}
            merged = _merge_fairly(queues, running, weights, history.at_site(site))
            allowed.update(job.id for job in islice(merged, max(0, slots)))
    return {tenant: [job for job in jobs if job.id in allowed] for tenant, jobs in ready.items()}


def _rank(job: ReadyJob) -> tuple[float, str]:
    return (job.due.timestamp() if job.due else 0.0, job.id)
