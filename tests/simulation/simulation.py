"""The simulation: the real dispatcher, leases and queries, simulated fetchers and a fake clock."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from tests.job_stores import SqlStore
from tests.simulation.costs import CpuMeter
from tests.simulation.fleet import Broker, Download, Fetcher, Fleet
from tests.simulation.workload import BLOCKED_SITE, START, Workload, new_job

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import leases, retries
from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.results import LeaseGrant
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.dispatcher import Dispatcher
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.leases import Leases

#: Longer than the simulation: what renewals cost is measured apart.
LEASE = timedelta(minutes=10)
_TICK = timedelta(seconds=1)
_HEARTBEAT_SECONDS = 30
# As LoopRunner repeats steps within a tick.
_STEPS_PER_TICK = 10
_SUCCEEDED = leases.Succeeded(
    media=media_pb2.MediaInfo(title="A video"),
    artifacts=(media_pb2.ArtifactInfo(name="artifacts/1", kind=media_pb2.ArtifactInfo.VIDEO),),
)
_BLOCKED = leases.Failed(error=retries.error_status(ErrorReason.UPSTREAM_BLOCKED, "blocked", {}))


@dataclass
class Observations:
    """What the simulation saw from outside; it knows nothing of how the dispatcher decides."""

    #: Tenant -> starts of jobs of its backlog.
    starts: Counter[str] = field(default_factory=Counter)
    #: The longest time in seconds that a tenant with a backlog had nothing running.
    longest_idle: float = 0.0
    started_sites: set[str] = field(default_factory=set)
    #: Kind of a job that came during the simulation -> seconds from its creation to its start.
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: Kind -> how many never started.
    unstarted: Counter[str] = field(default_factory=Counter)
    #: Site, and how many of its jobs were published or leased at once, where that exceeds its limit.
    exceeded: list[tuple[str, int]] = field(default_factory=list)
    #: A tenant's jobs of one site that started before an older or more urgent one.
    disordered: int = 0
    #: Busy slots at the end of each tick.
    busy: list[int] = field(default_factory=list)
    #: Seconds of real time of each dispatch step.
    step_seconds: list[float] = field(default_factory=list)
    refused_claims: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    most_in_flight: int = 0


class Simulation:
    """Runs a workload on a store that holds its backlog."""

    def __init__(self, store: SqlStore, workload: Workload, meter: CpuMeter | None = None) -> None:
        self._store, self._workload, self._meter = store, workload, meter or CpuMeter()
        self._now = START
        self._random = Random(workload.seed + 1)
        self.broker, hub = Broker(), EventHub()
        self._fleet = Fleet(workload.size.fetchers, workload.size.slots_per_fetcher)
        notifier = ChangeNotifier(hub, self.broker)
        limits = workload.limits
        self.dispatcher = Dispatcher(store, self.broker, self.now, LEASE, limits, workload.weights, hub=hub)
        self._leases = Leases(store, store, notifier, self.now, LEASE, limits)
        # Site -> its published and leased jobs; tenant -> its running jobs, and when the last one ended.
        self._in_flight, self._running = Counter[str](), Counter[str]()
        self._idle_since: dict[str, datetime] = {}
        # Tenant and site -> rank of its last job of the backlog that was published.
        self._last_rank: dict[tuple[str, str], tuple[datetime, str]] = {}
        # Jobs that came during the simulation and have not started: id -> kind and time.
        self._new: dict[str, tuple[str, datetime]] = {}
        self._numbers = itertools.count(1)
        # So that new jobs are a twentieth of all.
        self._arrival_seconds = math.ceil(20 * 2 / workload.size.jobs_per_second)
        self.seen = Observations()

    def now(self) -> datetime:
        """Return the simulated time."""
        return self._now

    async def run(self) -> Observations:
        """Simulate the workload's seconds."""
        for second in range(self._workload.size.seconds):
            self._now = START + second * _TICK
            if second % _HEARTBEAT_SECONDS == 0:
                await self._report_workers()
            await self._finish(self._fleet.list_ended(self._now))
            await self._add_new_jobs(second)
            await self._dispatch()
            await self._claim(self._fleet.pull(self.broker))
            self.seen.busy.append(self._fleet.busy)
        for tenant in self._workload.weights:
            if not self._running[tenant]:
                self._end_idle_time(tenant)
        self.seen.unstarted.update(kind for kind, _ in self._new.values())
        return self.seen

    async def _report_workers(self) -> None:
        slots, fetchers = self._fleet.slots_per_fetcher, self._fleet.fetchers
        with self._meter.measure("heartbeat of a fetcher", len(fetchers)):
            await asyncio.gather(
                *(self._store.record_worker_heartbeat(each.name, slots, self._now) for each in fetchers)
            )

    async def renew_all(self) -> None:
        """Renew the leases of all running jobs once."""
        running = self._fleet.running
        progress = media_pb2.Progress(percent=50, downloaded_bytes=1)
        with self._meter.measure("renewal", len(running)):
            await asyncio.gather(
                *(self._leases.renew(each.job.id, each.job.epoch, progress, None) for each in running)
            )

    async def _add_new_jobs(self, second: int) -> None:
        """Create jobs of tenants that are new, and of a tenant with a long backlog."""
        if second % self._arrival_seconds:
            return
        new = f"new-{second:05}"
        busy = self._random.choice(list(self._workload.sites))
        jobs = {
            "new tenant's job": (new, f"{new}.example", Priority.NORMAL),
            "HIGH job of a tenant with a backlog": (busy, f"{new}.example", Priority.HIGH),
        }
        for kind, (tenant, site, priority) in jobs.items():
            job_id = f"01910000-0000-7000-8000-{next(self._numbers):012x}"
            self._new[job_id] = kind, self._now
            await self._store.add([new_job(job_id, tenant, site, priority, self._now)])

    async def _dispatch(self) -> None:
        first = len(self.broker.published)
        for _ in range(_STEPS_PER_TICK):
            begin = time.perf_counter()
            with self._meter.measure("dispatch step"):
                more = await self.dispatcher.step()
            self.seen.step_seconds.append(time.perf_counter() - begin)
            if not more:
                break
        for item in self.broker.published[first:]:
            self._in_flight[item.site] += 1
            self._check_order(item)
        self.seen.most_in_flight = max(self.seen.most_in_flight, self._in_flight.total())
        for site, count in self._in_flight.items():
            if count > self._workload.limits.max_running_at(site):
                self.seen.exceeded.append((site, count))

    def _check_order(self, item: ReadyJob) -> None:
        """Count *item*, if it is of the backlog, if it overtook a job of its tenant and site."""
        if item.id in self._new or item.attempt > 1:
            return
        assert item.due is not None
        rank, key = (item.due, item.id), (item.tenant, item.site)
        self.seen.disordered += rank < self._last_rank.get(key, rank)
        self._last_rank[key] = rank

    async def _claim(self, taken: list[tuple[Fetcher, ReadyJob]]) -> None:
        with self._meter.measure("claim", len(taken)):
            await asyncio.gather(
                *(self._claim_one(fetcher, item, self._draw_duration(item.site)) for fetcher, item in taken)
            )

    async def _claim_one(self, fetcher: Fetcher, item: ReadyJob, duration: timedelta) -> None:
        claim = leases.Claim(
            attempt=item.attempt, worker=fetcher.name, request_id=item.id, engine_version="", lease=LEASE
        )
        result = await self._leases.claim(item.id, claim, self._fleet.slots_per_fetcher)
        if not isinstance(result, LeaseGrant):
            self.seen.refused_claims[result.reason.name] += 1
            self._in_flight[item.site] -= 1
            self.broker.unacknowledged -= 1
            self._fleet.release(fetcher)
            return
        self._fleet.start(fetcher, result.job, self._now + duration)
        self.seen.started_sites.add(item.site)
        if (new := self._new.pop(item.id, None)) is not None:
            kind, created = new
            self.seen.waits[kind].append((self._now - created).total_seconds())
        else:
            self.seen.starts[item.tenant] += 1
        if not self._running[item.tenant]:
            self._end_idle_time(item.tenant)
        self._running[item.tenant] += 1

    async def _finish(self, ended: list[Download]) -> None:
        with self._meter.measure("finish", len(ended)):
            await asyncio.gather(*(self._finish_one(download) for download in ended))

    async def _finish_one(self, download: Download) -> None:
        job = download.job
        outcome = leases.Outcome(result=_BLOCKED if job.site == BLOCKED_SITE else _SUCCEEDED)
        receipt = await self._leases.finish(job.id, job.epoch, outcome)
        assert not hasattr(receipt, "reason"), receipt
        self._in_flight[job.site] -= 1
        self._running[job.tenant] -= 1
        self._idle_since[job.tenant] = self._now
        self.broker.unacknowledged -= 1
        self._fleet.release(download.fetcher)
        self.seen.ended += 1

    def _end_idle_time(self, tenant: str) -> None:
        if tenant in self._workload.weights:
            idle = (self._now - self._idle_since.get(tenant, START)).total_seconds()
            self.seen.longest_idle = max(self.seen.longest_idle, idle)

    def _draw_duration(self, site: str) -> timedelta:
        """Draw a long-tailed duration; a site that blocks answers at once."""
        if site == BLOCKED_SITE:
            return timedelta(seconds=1)
        mean = self._workload.size.job_seconds
        return timedelta(seconds=max(1.0, self._random.lognormvariate(0, 0.8) * mean / 1.377))
