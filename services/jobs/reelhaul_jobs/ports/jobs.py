"""Jobs that survive, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.filters.ast import Node
from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, CountQuery, Order, Summary
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.transition import Transition

#: What becomes of a job as it is now. Pure: it may run again.
ChangeRule = Callable[[Job], Transition]

#: The same for an expansion and its entries, told which of them its schedule has seen.
ExpansionRule = Callable[[Job, Set[tuple[str, str]]], Transition]

#: The same for one of many jobs; None leaves it as it is, and out of the answer.
BatchRule = Callable[[Job], Transition | None]

#: As Rule, of a job that passes its site's gate.
LeaseRule = Callable[[Job, RateLimitView], Transition]

#: Site and egress whose gate a change is about.
RateLimitKey = Callable[[Job], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
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
    has_more: bool
    total: int


class JobStore(Protocol):
    """Jobs, their attempts and events: the truth. What a call answered is on disk."""

    async def add(self, jobs: Sequence[Job], request: IdempotencyKey | None = None) -> Sequence[Job]:
        """Keep new *jobs* with their first events; the jobs kept.

        The same *request* again answers the first call's jobs as they are now. Raises
        RESOURCE_EXISTS (an id is taken), REQUEST_ID_REUSED (another digest); then none is kept.
        """

    async def add_batch(self, batch: Batch, request: IdempotencyKey | None = None) -> Batch:
        """Keep the jobs of *batch* with their first events; what became of it.

        A job whose id is taken joins the failed. The same *request* again answers the first
        call's batch, its jobs as they are now. Where no job is kept, nothing is remembered.
        Raises REQUEST_ID_REUSED.
        """

    async def find_by_idempotency_key(self, request: IdempotencyKey) -> Sequence[Job] | None:
        """The jobs, as they are now, of the first call with this *request*; None where there was none.

        Raises REQUEST_ID_REUSED.
        """

    async def get(self, job_id: str) -> Job:
        """The job, or ``NotFound``: also where it was deleted."""

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of the jobs that are there, each once, in the order asked."""

    async def list_page(self, query: Query) -> Page:
        """Jobs in order."""

    async def summarize(self, asked: CountQuery) -> Summary:
        """What became of the jobs of a stretch of time."""

    async def change(
        self, job_id: str, rule: ChangeRule, request: IdempotencyKey | None = None
    ) -> Transition:
        """What *rule* makes of the job, kept with its event and attempt, in one transaction.

        No other change comes between. What *rule* raises leaves all as it was. A repeated
        *request* answers the job as it is. ``NotFound`` if there is no such row; a deleted
        one is still changed.
        """

    async def change_lease(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, now: datetime, *, counted: bool
    ) -> Transition:
        """As ``change``, with the gate of (site, egress) that *key* names: it is kept with the change.

        Passage.leased is told only where *counted*.
        """

    async def change_many(
        self, job_ids: Sequence[str], rule: BatchRule, request: IdempotencyKey | None = None
    ) -> Sequence[Transition]:
        """What *rule* makes of each of the jobs that has a row, kept in one transaction.

        Each is asked once, in the order given. What *rule* raises leaves all as they were. A
        repeated *request* answers the jobs that the first call answered, as they are.
        """

    async def expand(self, job_id: str, media_ids: Sequence[str], rule: ExpansionRule) -> Transition:
        """As ``change``, where the job may make others, which are kept with it.

        *rule* is told which of *media_ids* the job's schedule has seen, each with its
        extractor; what the change notes is seen from then on.
        """

    async def count_children(self, job_id: str) -> Mapping[State, int]:
        """How many jobs an expansion has made that are there still, by their state."""

    async def list_attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """Attempts with a number under *below* (None: all), the newest first."""

    async def get_attempt(self, job_id: str, number: int) -> Attempt:
        """One attempt, or ``NotFound``."""

    async def find_attempt_by_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """The attempt that held this lease; None where none did."""

    async def list_events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """Events with a revision above *after*, the oldest first."""

    async def get_revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Revisions by id of those of at most 500 jobs that are there."""

    async def get_queue_position(self, job: Job) -> int:
        """Its place among its tenant's ready jobs, from 1; 10000 stands for that or more."""

    async def get_or_create_key(self, name: str) -> bytes:
        """32 random bytes that all replicas share, made by the first who asks."""
