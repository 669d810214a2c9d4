"""The store of jobs, with their attempts and state events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, NamedTuple, Protocol, TypeVar

from reelhaul_jobs.model.job import Attempt, Event, Job
from reelhaul_jobs.model.lists import Batch, CountQuery, Order, Summary
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.transition import Transition
from reelhaul_runtime.filters.ast import Node

J = TypeVar("J")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: Returns how a job changes. Pure: it may be called again. So are the other rules.
ChangeRule = Callable[[Job], Transition]

#: The same for an expansion, given which of its entries the schedule has seen.
ExpansionRule = Callable[[Job, Set[tuple[str, str]]], Transition]

#: The same for one of many jobs; None leaves it unchanged and out of the result.
BatchRule = Callable[[Job], Transition | None]

#: The same for a job and its site's rate limit.
LeaseRule = Callable[[Job, RateLimitView], Transition]

#: Returns the site and the egress whose rate limit a change concerns.
RateLimitKey = Callable[[Job], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes a call idempotent; stored with its effect in one transaction (AIP-155)."""

    tenant: str
    method: str
    id: str
    #: SHA-256 of the request without its id.
    digest: bytes
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Selects one page of jobs, by keyset."""

    #: None: of all tenants.
    tenant: str | None
    limit: int
    order: Order = Order.CREATED
    descending: bool = True
    #: Sort key of the last job of the page before.
    after: tuple[datetime, str] | None = None
    skip: int = 0
    #: None: all jobs.
    where: Node | None = None
    #: The total, if it was counted for an earlier page.
    total: int | None = None


class JobVersion(NamedTuple):
    """Identifies what the row of a job holds. Every change that callers see of an ended job gives it another.

    The tenant and the time distinguish a job from an earlier one that had its id and was purged.
    """

    id: str
    tenant: str
    revision: int
    #: In microseconds since 1970.
    update_time: int

    @classmethod
    def of(cls, job: Job) -> JobVersion:
        """Return the version of *job*."""
        return cls(job.id, job.tenant, job.revision, (job.update_time - _EPOCH) // _MICROSECOND)


#: Returns what is kept of a job in this version, None if nothing is. Called from the threads of the store.
FindKept = Callable[[JobVersion], bytes | None]


def find_nothing(version: JobVersion) -> None:
    """Find nothing: the FindKept of a caller that keeps nothing."""


class KeptJob(NamedTuple):
    """A job of which the caller keeps what it shows."""

    id: str
    #: Its time in the order of the list, in microseconds since 1970.
    order_time: int
    content: bytes

    @property
    def sort_key(self) -> tuple[datetime, str]:
        """The sort key in the order of the list."""
        return _EPOCH + timedelta(microseconds=self.order_time), self.id


@dataclass(frozen=True, slots=True)
class Page(Generic[J]):
    """Jobs in order, whether more follow, and the total of the query, counted up to 10000."""

    jobs: Sequence[J]
    has_more: bool
    total: int


class JobStore(Protocol):
    """Stores jobs, attempts and events durably: what a method returned is on disk."""

    async def add(self, jobs: Sequence[Job], request: IdempotencyKey | None = None) -> Sequence[Job]:
        """Store new *jobs* with their first events; return them.

        A repeated *request* returns the first call's jobs as they are now. Raises RESOURCE_EXISTS (an id is
        taken), REQUEST_ID_REUSED (another digest) and QUOTA_EXCEEDED (more expansions than
        ``playlist_expansion.MAX_LIVE_PER_TENANT``); then nothing is stored.
        """

    async def add_batch(self, batch: Batch, request: IdempotencyKey | None = None) -> Batch:
        """Store the jobs of *batch* with their first events; return what became of them.

        A job whose id is taken is moved to the failed ones. A repeated *request* returns the first call's
        batch, its jobs as they are now; it is not recorded if no job was stored. Raises REQUEST_ID_REUSED.
        """

    async def find_by_idempotency_key(self, request: IdempotencyKey) -> Sequence[Job] | None:
        """Return the jobs of the first call with this *request*, as they are now; None if there was none.

        Raises REQUEST_ID_REUSED.
        """

    async def get(self, job_id: str) -> Job:
        """Return the job. Raises ``NotFound``, also if it is deleted."""

    async def get_many(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Return those of the jobs that exist, each once, in the order given."""

    async def get_or_kept(self, job_id: str, find_kept: FindKept) -> Job | bytes:
        """As ``get``, but return what *find_kept* returns for the job's version, if anything."""

    async def list_page(self, query: Query) -> Page[Job]:
        """Return a page of jobs."""

    async def list_page_or_kept(self, query: Query, find_kept: FindKept) -> Page[Job | KeptJob]:
        """As ``list_page``, but with a KeptJob in place of each job for which *find_kept* returns something.

        All of the page is as of one moment.
        """

    async def summarize(self, query: CountQuery) -> Summary:
        """Count the jobs of a period."""

    async def change(
        self, job_id: str, rule: ChangeRule, request: IdempotencyKey | None = None
    ) -> Transition:
        """Store what *rule* returns for the job, with its event and attempt, in one transaction.

        No other change comes between. If *rule* raises, nothing changes. A repeated *request* returns the
        job unchanged. Raises ``NotFound`` if there is no row; a deleted job is still changed. Raises
        QUOTA_EXCEEDED as ``add`` if the job is an expansion that had ended and would be live again.
        """

    async def change_lease(
        self, job_id: str, key: RateLimitKey, rule: LeaseRule, now: datetime, *, counted: bool
    ) -> Transition:
        """As ``change``, with the rate limit of the site and egress that *key* returns.

        RateLimitView.leased_count is set only if *counted*.
        """

    async def change_many(
        self, job_ids: Sequence[str], rule: BatchRule, request: IdempotencyKey | None = None
    ) -> Sequence[Transition]:
        """Store what *rule* returns for each of the jobs that has a row, in one transaction.

        Each job is changed once, in the order given. If *rule* raises, nothing changes. A repeated *request*
        returns the first call's jobs unchanged. Raises QUOTA_EXCEEDED as ``change``.
        """

    async def expand(self, job_id: str, entry_keys: Sequence[str], rule: ExpansionRule) -> Transition:
        """As ``change``, with the jobs that the change creates.

        *rule* receives which of *entry_keys* the job's schedule has seen, with their extractors; the
        seen_entries of the change are added to them.
        """

    async def count_children(self, job_id: str) -> Mapping[State, int]:
        """Count the jobs that an expansion created and that are not deleted, by state."""

    async def list_leased_children(self, job_id: str, limit: int) -> Sequence[Job]:
        """Return at most *limit* leased jobs of an expansion, in the order of their entries."""

    async def sum_children_bytes(self, job_id: str) -> int:
        """Return the bytes received by ended attempts of an expansion's jobs."""

    async def list_attempts(self, job_id: str, *, below: int | None, limit: int) -> Sequence[Attempt]:
        """Return attempts with a number below *below* (None: all), the newest first."""

    async def get_attempt(self, job_id: str, number: int) -> Attempt:
        """Return one attempt. Raises ``NotFound``."""

    async def find_attempt_by_epoch(self, job_id: str, epoch: int) -> Attempt | None:
        """Return the attempt under the lease *epoch*; None if there is none."""

    async def list_events(self, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """Return events with a revision above *after*, the oldest first."""

    async def get_revisions(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the revisions by id of those of at most 500 jobs that exist."""

    async def get_queue_position(self, job: Job) -> int:
        """Return its position among its tenant's ready jobs, from 1; 10000 stands for that or more."""

    async def get_or_create_key(self, name: str) -> bytes:
        """Return 32 random bytes that all replicas share."""
