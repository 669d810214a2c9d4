"""Workload of the simulation: tenants, sites and the rows of a long backlog, all drawn from one seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.store import rows

#: When the simulation starts.
START = datetime(2030, 1, 1, tzinfo=UTC)
#: The backlog was created within this time before START.
BACKLOG_AGE = timedelta(minutes=50)
#: The site that most tenants use, with a high limit.
LARGE_SITE = "large.example"
#: A site that refuses every job.
BLOCKED_SITE = "blocked.example"

_WEIGHTS, _WEIGHT_SHARES = (1.0, 2.0, 4.0), (80, 15, 5)
_PRIORITIES, _PRIORITY_SHARES = (Priority.NORMAL, Priority.LOW), (80, 20)
_ROWS_PER_BATCH = 20_000
# As REELHAUL_JOBS_SITE_LIMIT by default.
_SITE_LIMIT = 16


@dataclass(frozen=True)
class Size:
    """How large the simulation is."""

    fetchers: int
    slots_per_fetcher: int
    jobs: int
    tenants: int
    sites: int
    #: Simulated seconds.
    seconds: int
    #: Mean seconds of a download.
    job_seconds: float

    @property
    def slots(self) -> int:
        """The slots of all fetchers."""
        return self.fetchers * self.slots_per_fetcher

    @property
    def jobs_per_second(self) -> float:
        """How many downloads end per second while all slots are busy."""
        return self.slots / self.job_seconds


@dataclass(frozen=True)
class Workload:
    """Tenants with endless backlogs, their weights and sites, and the limits of the sites."""

    size: Size
    weights: Mapping[str, float]
    #: Tenant -> the sites of its jobs.
    sites: Mapping[str, Sequence[str]]
    #: Tenant -> its part of the backlog.
    shares: Mapping[str, float]
    limits: SiteLimits
    seed: int

    def list_rows(self) -> Iterator[list[dict[str, object]]]:
        """Yield the rows of the backlog in batches, in the order of their creation."""
        random = Random(self.seed)
        template = rows.row_from_job(new_job("", "", "", Priority.NORMAL, START))
        tenants, shares = list(self.shares), list(itertools.accumulate(self.shares.values()))
        step = BACKLOG_AGE / self.size.jobs
        for first in range(0, self.size.jobs, _ROWS_PER_BATCH):
            count = min(_ROWS_PER_BATCH, self.size.jobs - first)
            chosen = random.choices(tenants, cum_weights=shares, k=count)
            priorities = random.choices(_PRIORITIES, _PRIORITY_SHARES, k=count)
            batch = []
            for number, tenant, priority in zip(itertools.count(first), chosen, priorities, strict=False):
                created = rows.to_micros(START - BACKLOG_AGE + number * step)
                site = random.choice(self.sites[tenant])
                offset = Job.priority_offset(priority) // timedelta(microseconds=1)
                batch.append(
                    {
                        **template,
                        "id": f"01900000-0000-7000-8000-{number:012x}",
                        "tenant": tenant,
                        "site": site,
                        "url": f"https://{site}/watch?v={number}",
                        "priority": int(priority),
                        "create_time": created,
                        "update_time": created,
                        "due": created - offset,
                    }
                )
            yield batch


def draw_workload(size: Size, seed: int) -> Workload:
    """Draw a workload of *size*: few tenants have most of the backlog, and few sites most of the jobs."""
    random = Random(seed)
    tenants = [f"tenant-{number:05}" for number in range(size.tenants)]
    sites = [f"site-{number:04}.example" for number in range(size.sites)]
    weights = dict(zip(tenants, random.choices(_WEIGHTS, _WEIGHT_SHARES, k=len(tenants)), strict=True))
    popularity = [1 / (rank + 1) for rank in range(len(sites))]
    order = random.sample(range(len(tenants)), len(tenants))
    return Workload(
        size=size,
        weights=weights,
        sites={tenant: _draw_sites(tenant, sites, popularity, random) for tenant in tenants},
        # The largest backlog is five times the smallest.
        shares={tenant: 1 / (rank + len(tenants) / 4) for tenant, rank in zip(tenants, order, strict=True)},
        limits=SiteLimits(
            max_running=_SITE_LIMIT,
            max_running_by_site={LARGE_SITE: size.slots // 8, **dict.fromkeys(sites[::3], 2)},
        ),
        seed=seed,
    )


def _draw_sites(tenant: str, sites: Sequence[str], popularity: Sequence[float], random: Random) -> list[str]:
    """Draw the sites of *tenant*: some that it shares with others, and two of its own."""
    shared = random.choices(sites, popularity, k=random.randint(1, 8))
    own = [f"{number}.{tenant}.example" for number in range(2)]
    return sorted({LARGE_SITE, BLOCKED_SITE, *shared, *own})


def new_job(job_id: str, tenant: str, site: str, priority: Priority, create_time: datetime) -> Job:
    """Return a job that waits to be published."""
    job = Job(
        id=job_id,
        tenant=tenant,
        url=f"https://{site}/watch?v=1",
        format=media_pb2.FormatSpec(max_height=1080),
        priority=priority,
        create_time=create_time,
        update_time=create_time,
    )
    return queue_transitions.enqueue(replace(job))
