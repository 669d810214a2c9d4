"""What jobs needs of the world: rows that survive, a bus, two neighbours, a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.filters.tree import Node
from reelhaul_jobs.model.change import Change
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, Order, Range, Summary
from reelhaul_jobs.model.passages import Passage
from reelhaul_jobs.model.picking import Held, Ready
from reelhaul_jobs.model.sites import UNLIMITED, SiteNow
from reelhaul_jobs.model.states import Lane, State

#: The time, aware, in UTC.
Clock = Callable[[], datetime]

#: What becomes of a job as it is now. Pure: it may run again.
Rule = Callable[[Job], Change]

#: The same for an expansion and its entries, told which of them its schedule has seen.
RuleOfList = Callable[[Job, Set[tuple[str, str]]], Change]

#: The same for one of many jobs; None leaves it as it is, and out of the answer.
RuleOfMany = Callable[[Job], Change | None]

#: As Rule, of a job that passes its site's gate.
SiteRule = Callable[[Job, Passage], Change]

#: Site and egress whose gate a change is about.
SiteKey = Callable[[Job], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a call idempotent: stored with its effect, in one transaction (AIP-155)."""

    tenant: str
    method: str
    id: str
    #: SHA-256 of the request without its id.
    digest: bytes
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One page of jobs, by keyset."""

    #: None: of every tenant.
    tenant: str | None
    limit: int
    order: Order = Order.CREATED
    descending: bool = True
    #: Where the last job of the page before stood.
    after: tuple[datetime, str] | None = None
    skip: int = 0
    #: Which jobs; None: all.
    where: Node | None = None
    #: How many there are, where that was counted for an earlier page.
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in order; ``more`` follow; ``total`` of the whole query, at most 10000 counted."""

    jobs: Sequence[Job]
    more: bool
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the dispatcher wants to see of the backlog."""

    #: Jobs of each tenant.
    limit: int
    #: How many more jobs of a site may be published; where none may, its jobs are left out.
    room: Callable[[SiteNow], int] = lambda _: UNLIMITED
    #: Where there are more tenants than one look takes in, those behind this one by name come first.
    after_tenant: str = ""
    #: Likewise of a tenant's sites, by tenant.
    after_sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What could be published, each tenant's in its order, and what is in hand."""

    ready: Mapping[str, Sequence[Ready]] = field(default_factory=dict)
    #: What is published and leased.
    held: Held = field(default_factory=Held)
    #: The sites that have ready jobs, of those looked at.
    sites: Mapping[str, SiteNow] = field(default_factory=dict)
    #: Published jobs in all: what of the window is used.
    published: int = 0
    #: Slots of the workers seen lately.
    slots: int = 0
    #: The last tenant looked at, where there are more; else empty.
    last_tenant: str = ""
    #: By tenant the last site looked at, where there are more.
    last_sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """A worker's newest progress, ordered by (epoch, sequence)."""

    job_id: str
    epoch: int
    sequence: int
    progress: media_pb2.Progress


@dataclass(frozen=True, slots=True, order=True)
class Move:
    """That a job moved, in the order in which moves are read."""

    time: datetime
    job_id: str = ""
    revision: int = 0
    #: The state it left; None where it was created.
    left: State | None = field(default=None, compare=False)


class JobStore(Protocol):
    """Jobs, their attempts and events: the truth. What a call answered is on disk."""

    async def add(self, jobs: Sequence[Job], request: Request | None = None) -> Sequence[Job]:
        """Keep new *jobs* with their first events; the jobs kept.

        The same *request* again answers the first call's jobs as they are now. Raises
        RESOURCE_EXISTS (an id is taken), REQUEST_ID_REUSED (another digest); then none is kept.
        """

    async def add_batch(self, batch: Batch, request: Request | None = None) -> Batch:
        """Keep the jobs of *batch* with their first events; what became of it.

        A job whose id is taken joins the failed. The same *request* again answers the first
        call's batch, its jobs as they are now. Where no job is kept, nothing is remembered.
        Raises REQUEST_ID_REUSED.
        """

    async def earlier(self, request: Request) -> Sequence[Job] | None:
        """The jobs, as they are now, of the first call with this *request*; None where there was none.

        Raises REQUEST_ID_REUSED.
        """

    async def get(self, job_id: str) -> Job:
        """The job, or ``NotFound``: also where it was deleted."""

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of the jobs that are there, each once, in the order asked."""

    async def page(self, query: Query) -> Page:
        """Jobs in order."""

    async def summary(self, asked: Range) -> Summary:
        """What became of the jobs of a stretch of time."""

    async def change(self, job_id: str, rule: Rule, request: Request | None = None) -> Change:
        """What *rule* makes of the job, kept with its event and attempt, in one transaction.

        No other change comes between. What *rule* raises leaves all as it was. A repeated
        *request* answers the job as it is. ``NotFound`` if there is no such row; a deleted
        one is still changed.
        """

    async def change_at_site(
        self, job_id: str, key: SiteKey, rule: SiteRule, now: datetime, *, counted: bool
    ) -> Change:
        """As ``change``, with the gate of (site, egress) that *key* names: it is kept with the change.

        Passage.leased is told only where *counted*.
        """

    async def change_many(
        self, job_ids: Sequence[str], rule: RuleOfMany, request: Request | None = None
    ) -> Sequence[Change]:
        """What *rule* makes of each of the jobs that has a row, kept in one transaction.

        Each is asked once, in the order given. What *rule* raises leaves all as they were. A
        repeated *request* answers the jobs that the first call answered, as they are.
        """

    async def expand(self, job_id: str, media_ids: Sequence[str], rule: RuleOfList) -> Change:
        """As ``change``, where the job may make others, which are kept with it.

        *rule* is told which of *media_ids* the job's schedule has seen, each with its
        extractor; what the change notes is seen from then on.
        """

    async def children(self, job_id: str) -> Mapping[State, int]:
        """How many jobs an expansion has made that are there still, by their state."""

    async def attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """Attempts with a number under *below* (None: all), the newest first."""

    async def attempt(self, job_id: str, number: int) -> Attempt:
        """One attempt, or ``NotFound``."""

    async def attempt_of_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """The attempt that held this lease; None where none did."""

    async def events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """Events with a revision above *after*, the oldest first."""

    async def revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Revisions by id of those of at most 500 jobs that are there."""

    async def place(self, job: Job) -> int:
        """Its place among its tenant's ready jobs, from 1; 10000 stands for that or more."""

    async def key(self, name: str) -> bytes:
        """32 random bytes that all replicas share, made by the first who asks."""


class QueueStore(Protocol):
    """The same rows, as the loops look at them."""

    async def backlog(self, look: Look, now: datetime) -> Backlog:
        """Ready jobs of a bounded number of tenants and sites; reads no more rows than it answers."""

    async def take(self, jobs: Sequence[Ready], until: datetime, leader: str | None) -> Sequence[Ready]:
        """Mark these as published, to be looked after at *until*; those that still were ready, come back.

        None where *leader* does not lead the dispatcher any more: so what is in hand at a
        site never passes its limit, whoever believes to lead. None for a leader: not asked.
        """

    async def put_back(self, jobs: Sequence[Ready]) -> None:
        """These attempts did not get into JetStream after all: they are ready again, unless claimed."""

    async def outstanding(self, limit: int) -> Sequence[Ready]:
        """Attempts marked as published, at most *limit*."""

    async def site(self, site: str, now: datetime) -> SiteNow:
        """How *site* stands."""

    async def due(self, lane: Lane, before: datetime, limit: int) -> Sequence[str]:
        """Ids of jobs in *lane* (but READY) whose ``due`` is not after *before*, the longest due first."""

    async def count(self, lanes: Sequence[Lane]) -> int:
        """How many jobs are in *lanes*, which are none of READY and IDLE."""

    async def seen(self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)) -> None:
        """A live worker has so many slots, and may use these egresses, one at least."""

    async def slots(self, now: datetime) -> int:
        """Slots of the workers seen lately."""

    async def unconfirmed(self, now: datetime, limit: int) -> Sequence[Job]:
        """Jobs whose artifacts' expiry storage is to be told of now."""

    async def cascading(self, limit: int) -> Sequence[Job]:
        """Expansions whose jobs are to be cancelled, the longest waiting first."""

    async def living(self, parent: str, limit: int) -> Sequence[str]:
        """Ids of jobs of the expansion *parent* that have not ended and are not being cancelled."""

    async def expired(self, now: datetime, limit: int) -> Sequence[str]:
        """Ids of ended jobs that are there and whose time has passed."""

    async def confirmed(self, job_id: str, again: datetime | None) -> None:
        """Storage knows (None), or is to be told again at *again*."""

    async def purge(self, job_id: str) -> None:
        """Remove the job's row with its attempts and events. Purging nothing is not an error."""

    async def forget(self, events_before: datetime, requests_before: datetime) -> None:
        """Drop old events and request records."""

    async def forget_gates(self, before: datetime) -> None:
        """Drop gates at which nothing happened since *before*."""

    async def lead(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """Whether *holder* leads *loop* until *lasting* from now; one holder at a time."""

    async def resign(self, loop: str, holder: str) -> None:
        """*holder* leads *loop* no more."""


class MoveStore(Protocol):
    """The same rows, for those who follow many jobs."""

    async def moves(
        self, after: Move, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[Move]:
        """Moves behind *after*, in order; only of a *tenant*, or only *among* at most 500 jobs.

        Times are those of the clocks that made the moves: one that is committed late comes
        before others that were read already.
        """

    async def as_they_are(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of at most 500 jobs that have a row, deleted ones too."""


class JobBus(Protocol):
    """What jobs says to workers and to its other replicas. All of it can be rebuilt from rows."""

    async def ready(self) -> bool:
        """Make what is missing of streams and consumers. Whether WORK was made anew: then it is empty.

        ``Unavailable`` while the broker is away.
        """

    async def publish(self, jobs: Sequence[Ready], now: datetime) -> Sequence[Ready]:
        """Put these attempts to the workers; those that are stored for sure, come back."""

    async def waiting(self) -> int:
        """Work items stored, in hand or not. ``Unavailable`` while the broker is away."""

    async def changed(self, job: Job) -> None:
        """Tell all replicas that a row changed. Never raises: a lost one is made up for."""

    async def stop(self, job: Job) -> None:
        """Tell the worker that holds *job* to renew now. Never raises."""

    async def progress(self, job_id: str) -> Notice | None:
        """The newest progress that the bus still has. Never raises."""


class Storage(Protocol):
    """The storage service, seen from here."""

    async def keep_until(self, artifact: str, expire_time: datetime) -> None:
        """The artifact (by name) is kept until then. Keeping what is gone is not an error."""

    async def delete(self, artifacts: Sequence[str]) -> None:
        """Forget the artifacts (by name). Forgetting what is gone is not an error."""


class Probe(Protocol):
    """The fetcher's answer to: what is there, and what would it cost?"""

    async def look(
        self, url: str, format_spec: media_pb2.FormatSpec, listed: int = 0
    ) -> tuple[media_pb2.MediaInfo, media_pb2.Estimate]:
        """What the site says, and the estimate. Raises what the site's answer means.

        With *listed* of the list at the URL, and of a job for each of so many of its entries.
        """
