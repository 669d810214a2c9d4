"""The backlog: the same rows, as the dispatcher and the other loops look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from reelhaul_jobs.model.fair_scheduling import InFlightCounts, ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import UNLIMITED, SiteStatus
from reelhaul_jobs.model.states import QueueStage


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogQuery:
    """What the dispatcher wants to see of the backlog."""

    #: Jobs of each tenant.
    limit: int
    #: How many more jobs of a site may be published; where none may, its jobs are left out.
    free_slots: Callable[[SiteStatus], int] = lambda _: UNLIMITED
    #: Where there are more tenants than one look takes in, those behind this one by name come first.
    after_tenant: str = ""
    #: Likewise of a tenant's sites, by tenant.
    after_sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What could be published, each tenant's in its order, and what is in hand."""

    ready: Mapping[str, Sequence[ReadyJob]] = field(default_factory=dict)
    #: What is published and leased.
    in_flight: InFlightCounts = field(default_factory=InFlightCounts)
    #: The sites that have ready jobs, of those looked at.
    sites: Mapping[str, SiteStatus] = field(default_factory=dict)
    #: Published jobs in all: what of the window is used.
    published: int = 0
    #: Slots of the workers seen lately.
    slots: int = 0
    #: The last tenant looked at, where there are more; else empty.
    last_tenant: str = ""
    #: By tenant the last site looked at, where there are more.
    last_sites: Mapping[str, str] = field(default_factory=dict)


class QueueStore(Protocol):
    """The same rows, as the loops look at them."""

    async def get_backlog(self, look: BacklogQuery, now: datetime) -> Backlog:
        """Ready jobs of a bounded number of tenants and sites; reads no more rows than it answers."""

    async def mark_published(
        self, jobs: Sequence[ReadyJob], until: datetime, leader: str | None
    ) -> Sequence[ReadyJob]:
        """Mark these as published, to be looked after at *until*; those that still were ready, come back.

        None where *leader* does not lead the dispatcher any more: so what is in hand at a
        site never passes its limit, whoever believes to lead. None for a leader: not asked.
        """

    async def mark_ready(self, jobs: Sequence[ReadyJob]) -> None:
        """These attempts did not get into JetStream after all: they are ready again, unless claimed."""

    async def list_published(self, limit: int) -> Sequence[ReadyJob]:
        """Attempts marked as published, at most *limit*."""

    async def get_site_status(self, site: str, now: datetime) -> SiteStatus:
        """How *site* stands."""

    async def list_due(self, lane: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        """Ids of jobs in *lane* (but READY) whose ``due`` is not after *before*, the longest due first."""

    async def count_in_stages(self, lanes: Sequence[QueueStage]) -> int:
        """How many jobs are in *lanes*, which are none of READY and IDLE."""

    async def record_worker_heartbeat(
        self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)
    ) -> None:
        """A live worker has so many slots, and may use these egresses, one at least."""

    async def count_worker_slots(self, now: datetime) -> int:
        """Slots of the workers seen lately."""

    async def list_expiry_pending(self, now: datetime, limit: int) -> Sequence[Job]:
        """Jobs whose artifacts' expiry storage is to be told of now."""

    async def list_cascade_cancellations(self, limit: int) -> Sequence[Job]:
        """Expansions whose jobs are to be cancelled, the longest waiting first."""

    async def list_active_children(self, parent: str, limit: int) -> Sequence[str]:
        """Ids of jobs of the expansion *parent* that have not ended and are not being cancelled."""

    async def list_expired(self, now: datetime, limit: int) -> Sequence[str]:
        """Ids of ended jobs that are there and whose time has passed."""

    async def mark_expiry_confirmed(self, job_id: str, again: datetime | None) -> None:
        """Storage knows (None), or is to be told again at *again*."""

    async def purge(self, job_id: str) -> None:
        """Remove the job's row with its attempts and events. Purging nothing is not an error."""

    async def delete_old_records(self, events_before: datetime, requests_before: datetime) -> None:
        """Drop old events and request records."""

    async def delete_idle_rate_limits(self, before: datetime) -> None:
        """Drop gates at which nothing happened since *before*."""

    async def acquire_leadership(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """Whether *holder* leads *loop* until *lasting* from now; one holder at a time."""

    async def release_leadership(self, loop: str, holder: str) -> None:
        """*holder* leads *loop* no more."""
