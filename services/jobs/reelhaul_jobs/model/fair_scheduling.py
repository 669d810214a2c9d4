"""Fair scheduling: which ready jobs are published next, fair between tenants and within site limits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from itertools import islice, takewhile

from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import Priority

_MIN_JOBS_PER_TENANT = 8
_MIN_TENANTS_READ, _MAX_TENANTS_READ = 20, 200
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
        # The tenants whose jobs were read since the last round of the sites.
        self._read: set[str] = set()

    def at_site(self, site: str) -> VirtualTime:
        """Return the virtual times at *site*."""
        return self._sites.get(site) or VirtualTime()

    def record(
        self,
        ready: Mapping[str, Sequence[ReadyJob]],
        selected: Sequence[ReadyJob],
        weights: Mapping[str, float],
        *,
        unread: Collection[str] = (),
        ends_round: bool = True,
    ) -> None:
        """Record the jobs *selected* of *ready*.

        *unread*: tenants that wait too, but whose jobs were not read. *ends_round*: with them all tenants
        that wait were seen since the last round.
        """
        for job in selected:
            weight = weights.get(job.tenant, 1.0)
            self.overall.advance(job.tenant, weight)
            at_site = self._sites.pop(job.site, VirtualTime())
            at_site.advance(job.tenant, weight)
            self._sites[job.site] = at_site
        while len(self._sites) > _MAX_SITES:
            del self._sites[next(iter(self._sites))]
        self.overall.observe(ready)
        self.overall.observe(unread)
        for tenant, jobs in ready.items():
            for site in {job.site for job in jobs} & self._sites.keys():
                self._sites[site].observe([tenant])
        if ends_round:
            self.overall.end_round()
        self._read.update(ready)
        if ends_round and self._read.issuperset(unread):
            self._read.clear()
            for times in self._sites.values():
                times.end_round()


@dataclass(frozen=True, slots=True)
class FairOrder:
    """Who is next of the tenants that wait: whoever has the fewest jobs in flight for its weight.

    Jobs in flight are counted in whole jobs of the lowest weight. Of several such tenants it is the one that
    was served least.
    """

    in_flight: Mapping[str, int]
    weights: Mapping[str, float]
    times: VirtualTime
    #: The lowest weight of the tenants that wait.
    lowest: float

    @classmethod
    def of(
        cls,
        tenants: Iterable[str],
        in_flight: InFlightCounts,
        weights: Mapping[str, float],
        history: ServiceHistory,
    ) -> FairOrder:
        """Return the order of *tenants*, which have jobs waiting."""
        lowest = min((weights.get(tenant, 1.0) for tenant in tenants), default=1.0)
        return cls(in_flight.by_tenant, weights, history.overall, lowest)

    def rank(self, tenant: str, selected: int = 0) -> tuple[int, float]:
        """Return the rank of *tenant* after *selected* more of its jobs: the lowest is next."""
        weight = self.weights.get(tenant, 1.0)
        running = self.in_flight.get(tenant, 0) + selected
        return int(running / (weight / self.lowest)), self.times.get(tenant) + selected / weight


def select_fairly(
    ready: Mapping[str, Sequence[ReadyJob]],
    count: int,
    *,
    in_flight: InFlightCounts | None = None,
    free_slots: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    history: ServiceHistory | None = None,
    unread: Collection[str] = (),
) -> list[ReadyJob]:
    """Return the next *count* jobs; each is of the tenant that is next by FairOrder.

    *ready* has each tenant's jobs in order, *free_slots* the number of further jobs per site. Jobs of a full
    site are skipped: the tenant's next job of another site is taken. *unread*: tenants that wait too, but
    whose jobs were not read; fewer jobs are returned where it is their turn.
    """
    in_flight, weights, history = in_flight or InFlightCounts(), weights or {}, history or ServiceHistory()
    order = FairOrder.of([*ready, *unread], in_flight, weights, history)
    turn_of_unread = min((order.rank(tenant) for tenant in unread), default=(math.inf, math.inf))
    allowed = apply_site_limits(ready, in_flight, free_slots or {}, weights, history)
    due = takewhile(lambda item: item[0] <= turn_of_unread, _merge_fairly(allowed, order))
    return [job for _, job in islice(due, max(0, count))]


def _merge_fairly(
    queues: Mapping[str, Sequence[ReadyJob]], order: FairOrder
) -> Iterator[tuple[tuple[int, float], ReadyJob]]:
    """Yield the jobs of *queues*, which belong to one tenant each, in *order*, with their tenants' ranks.

    Of tenants with equal ranks the one whose next job is older comes first.
    """

    def entry(tenant: str, number: int) -> tuple[tuple[int, float], tuple[float, str], str, int]:
        return order.rank(tenant, number), _rank(queues[tenant][number]), tenant, number

    heap = [entry(tenant, 0) for tenant, jobs in queues.items() if jobs]
    heapify(heap)
    while heap:
        rank, _, tenant, number = heap[0]
        yield rank, queues[tenant][number]
        if number + 1 < len(queues[tenant]):
            heapreplace(heap, entry(tenant, number + 1))
        else:
            heappop(heap)


def window_size(slots: int, drain_rate: float, ceiling: int = 4096) -> int:
    """Return how many work items may be unclaimed, for workers of *slots* that claim *drain_rate* a second.

    Unclaimed items are served before any job that comes later, so the window is short: enough for the slots
    that become free until the next step, and for half a second of claims.
    """
    waiting = max(1, slots // 2) if slots else 4
    return min(ceiling, max(waiting, int(drain_rate / 2)))


def tenants_to_read(room: int) -> int:
    """Return of how many tenants jobs are read, where *room* more may be published: those that are next.

    Enough if half of them have no job that may be published; if that was too few, the next step reads others.
    """
    return min(_MAX_TENANTS_READ, max(_MIN_TENANTS_READ, 2 * room))


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
            lowest = min(weights.get(tenant, 1.0) for tenant in queues)
            order = FairOrder(running, weights, history.at_site(site), lowest)
            allowed.update(job.id for _, job in islice(_merge_fairly(queues, order), max(0, slots)))
    return {tenant: [job for job in jobs if job.id in allowed] for tenant, jobs in ready.items()}


def _rank(job: ReadyJob) -> tuple[float, str]:
    return (job.due.timestamp() if job.due else 0.0, job.id)
