"""The store of jobs as the background loops use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from reelhaul_jobs.model.fair_scheduling import InFlightCounts, ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.queue_counts import QueueCounts
from reelhaul_jobs.model.rate_limit import UNLIMITED, SiteStatus
from reelhaul_jobs.model.states import QueueStage


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogQuery:
    """What the dispatcher reads of the backlog."""

    #: Returns how many published jobs may be unclaimed, given the slots of the live workers.
    window: Callable[[int], int] = lambda _: UNLIMITED
    #: Jobs per tenant at most.
    limit: int = UNLIMITED
    #: Returns how many more jobs of a site may be published; jobs of sites without a free slot are left out.
    free_slots: Callable[[SiteStatus], int] = lambda _: UNLIMITED
    #: Returns the tenants that have ready jobs in the order in which their jobs are read, given what is in
    #: flight. Not all of them may be read.
    order: Callable[[Sequence[str], InFlightCounts], Sequence[str]] = lambda waiting, _: waiting
    #: If more tenants wait than one query lists, those after this one by name are listed first.
    after_tenant: str = ""
    #: The same for the sites of a tenant, by tenant.
    after_sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs that could be published, each tenant's in order, and those in flight."""

    ready: Mapping[str, Sequence[ReadyJob]] = field(default_factory=dict)
    in_flight: InFlightCounts = field(default_factory=InFlightCounts)
    #: Those of the sites read that have ready jobs.
    sites: Mapping[str, SiteStatus] = field(default_factory=dict)
    #: How many published jobs may be unclaimed, and how many are. Without room no ready jobs are read.
    window: int = UNLIMITED
    published: int = 0
    #: How many jobs were read per tenant at most.
    limit: int = UNLIMITED
    #: The tenants that have ready jobs, and those of them whose jobs were read.
    waiting: Collection[str] = ()
    tenants: Collection[str] = ()
    #: The last of those that wait if there are more, else empty.
    last_tenant: str = ""
    #: By tenant, the last site read if there are more.
    last_sites: Mapping[str, str] = field(default_factory=dict)
    #: Whether jobs are left out because their key or tenant is at its limit of concurrent jobs.
    at_limit: bool = False

    @property
    def room(self) -> int:
        """How many more jobs may be published."""
        return max(0, self.window - self.published)


class QueueStore(Protocol):
    """Reads and marks jobs for the background loops."""

    async def get_backlog(self, query: BacklogQuery, now: datetime) -> Backlog:
        """Return ready jobs of a bounded number of tenants and sites, without reading further rows.

        Jobs beyond the ``fair_scheduling.site_share`` of their site come last.
        """

    async def mark_published(
        self, jobs: Sequence[ReadyJob], until: datetime, leader: str | None
    ) -> Sequence[ReadyJob]:
        """Mark ready jobs as published until *until*. Return those that were still ready.

        Marks nothing if *leader* does not lead the dispatcher any more, so that two replicas that both
        believe to lead cannot exceed a site's limit together. *leader* None: not checked.
        """

    async def mark_ready(self, jobs: Sequence[ReadyJob]) -> None:
        """Mark attempts that were not published after all as ready again, unless they are claimed."""

    async def list_published(self, limit: int) -> Sequence[ReadyJob]:
        """Return at most *limit* attempts that are marked as published."""

    async def get_site_status(self, site: str, now: datetime) -> SiteStatus:
        """Return the jobs in flight and the rate limits of *site*."""

    async def count_queue(self, now: datetime) -> QueueCounts:
        """Return how many jobs wait and run, each number up to a limit. Raises REQUEST_TIMED_OUT."""

    async def list_due(self, stage: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        """Return ids of jobs in *stage* (not READY) that are due at *before*, the longest overdue first."""

    async def list_due_after(self, stage: QueueStage, after: datetime, limit: int) -> Sequence[str]:
        """Return ids of jobs in *stage* (not READY) that are not due until *after*, the next ones first."""

    async def count_in_stages(self, stages: Sequence[QueueStage]) -> int:
        """Return how many jobs are in *stages*, which are none of READY and IDLE."""

    async def record_worker_heartbeat(
        self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)
    ) -> None:
        """Record that *worker* is alive, with its slots and the egresses, at least one, that it may use."""

    async def count_worker_slots(self, now: datetime) -> int:
        """Return the slots of the live workers."""

    async def list_expiry_pending(self, now: datetime, limit: int) -> Sequence[Job]:
        """Return jobs whose artifacts' expiry storage is to be told now."""

    async def list_cascade_cancellations(self, limit: int) -> Sequence[Job]:
        """Return expansions whose jobs are to be cancelled, the longest waiting first."""

    async def list_active_children(self, parent: str, limit: int) -> Sequence[str]:
        """Return ids of jobs of the expansion *parent* that have not ended and are not being cancelled."""

    async def list_expired(self, now: datetime, limit: int) -> Sequence[str]:
        """Return ids of ended jobs that are not deleted and whose expire_time has passed.

        Without those that have unfinished deliveries.
        """

    async def list_deliveries_due(
        self, now: datetime, per_tenant: int, limit: int
    ) -> Sequence[tuple[str, str]]:
        """Return id and tenant of jobs whose next delivery is to be tried now, the longest overdue first.

        At most *per_tenant* of each tenant.
        """

    async def mark_expiry_confirmed(self, job_id: str, again: datetime | None) -> None:
        """Record that storage knows the expiry (*again* is None), or is to be told again at *again*."""

    async def purge(self, job_id: str) -> None:
        """Delete the job's row with its attempts and events. A missing row is not an error."""

    async def delete_old_records(
        self, events_before: datetime, requests_before: datetime, limit: int
    ) -> bool:
        """Delete at most *limit* old events and as many old idempotency records.

        Return whether there may be more.
        """

    async def delete_old_usage(self, before: datetime) -> None:
        """Delete what keys and tenants used on days before *before*, except by jobs that have not ended."""

    async def delete_idle_rate_limits(self, before: datetime) -> None:
        """Delete rate limits that admitted and blocked nothing since *before*."""

    async def get_next_due_time(self) -> datetime | None:
        """Return when a loop has something to do next if nothing is written until then; None: never.

        It may be too early, but never too late.
        """

    def count_writes(self) -> int:
        """Return how many writes of this process have ended."""

    async def wait_for_write(self, seen: int, seconds: float) -> None:
        """Return once more than *seen* writes of this process have ended, at the latest after *seconds*."""

    async def acquire_leadership(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """Let *holder* lead *loop* for *lasting* unless another one does. Return whether it leads.

        A leadership of another one that ends later than its clock can have said is none: a clock was wrong.
        """

    async def release_leadership(self, loop: str, holder: str) -> None:
        """End the leadership of *holder*."""
