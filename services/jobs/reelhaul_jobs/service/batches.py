"""Batches: what callers may do with many jobs in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.filters.ast import And, Node, Operator, Or, Term
from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model import transition as changes
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.states import RETRY_TRANSITIONS, Kind
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey, JobStore, Query
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.jobs import Owner
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import FieldInvalid, NotFound, ReelhaulError, Violation

#: Jobs that one call may retry.
MOST = 1000

_REOPENED = Or(tuple(Term("state", Operator.EQUAL, int(state)) for state in RETRY_TRANSITIONS))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Jobs to retry: those of *ids*, or else the oldest that *where* holds of."""

    ids: Sequence[str] = ()
    where: Node | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """Jobs retried, or that would be; ``more`` are left that the filter holds of."""

    jobs: Sequence[Job]
    more: bool = False


class Batches:
    """What one may do with many jobs at once, each call in one transaction."""

    def __init__(self, store: JobStore, news: ChangeNotifier, now: Clock) -> None:
        self._store = store
        self._news = news
        self._now = now

    async def create(self, asked: Batch, request: IdempotencyKey | None, *, partly: bool) -> Batch:
        """Admit the jobs of *asked*: on disk when this returns; what became of them.

        All or none, unless *partly*. Raises RESOURCE_EXISTS (an id is taken), FIELD_INVALID,
        REQUEST_ID_REUSED; BATCH_FAILED where none of them could be admitted.
        """
        for place, job in asked.jobs.items():
            if job.kind is not Kind.SINGLE:
                raise FieldInvalid(f"requests[{place}].job.kind", "a batch holds no lists: expand each alone")
        batch = Batch(
            {place: queue_transitions.enqueue(job) for place, job in asked.jobs.items()}, asked.failed
        )
        kept = await (self._in_part(batch, request) if partly else self._whole(batch, request))
        await self._news.tell_all(list(kept.jobs.values()))
        return kept

    async def created(self, request: IdempotencyKey | None) -> Batch | None:
        """The jobs of an earlier call with this *request*; None where there was none. REQUEST_ID_REUSED."""
        if request is None or (kept := await self._store.find_by_idempotency_key(request)) is None:
            return None
        return Batch(dict(enumerate(kept)))

    async def get(self, job_ids: Sequence[str], owner: Owner) -> Sequence[Job]:
        """The jobs, in the order asked; ``NotFound`` for the first that is not there or another's."""
        found = {job.id: job for job in await self._store.get_many(job_ids) if owner in (None, job.tenant)}
        for job_id in job_ids:
            if job_id not in found:
                raise NotFound(f"jobs/{job_id}")
        return [found[job_id] for job_id in job_ids]

    async def cancel(self, job_ids: Sequence[str], owner: Owner) -> Sequence[Job]:
        """Stop the jobs for good; those that have ended stay as they are. ``NotFound``: none is stopped."""
        now = self._now()
        await self.get(job_ids, owner)

        def rule(job: Job) -> Transition:
            if job.delete_time is not None:
                raise NotFound(job.name)
            return changes.no_change(job) if job.state.is_terminal else queue_transitions.cancel(job, now)

        return await self._told(await self._store.change_many(job_ids, rule))

    async def retry(
        self, wanted: Wanted, owner: Owner, request: IdempotencyKey | None, *, only_look: bool = False
    ) -> Retried:
        """Queue again what FAILED or was CANCELLED of *wanted*, or *only_look* what that would be.

        ``NotFound`` for the first of its ids that is not there: then none is queued.
        """
        now, found = self._now(), await self._retriable(wanted, owner)
        if only_look:
            return found

        def rule(job: Job) -> Transition | None:
            gone = job.delete_time is not None or job.state not in RETRY_TRANSITIONS
            return None if gone else queue_transitions.retry(job, now)

        done = await self._store.change_many([job.id for job in found.jobs], rule, request)
        return Retried(await self._told(done), found.more)

    async def _retriable(self, wanted: Wanted, owner: Owner) -> Retried:
        if wanted.ids:
            present = await self.get(wanted.ids, owner)
            return Retried([job for job in present if job.state in RETRY_TRANSITIONS])
        narrowed = _REOPENED if wanted.where is None else And((wanted.where, _REOPENED))
        query = Query(tenant=owner, limit=MOST, descending=False, where=narrowed, total=0)
        page = await self._store.list_page(query)
        return Retried(page.jobs, page.has_more)

    async def _told(self, done: Sequence[Transition]) -> Sequence[Job]:
        for change in done:
            await self._news.tell(change)
        return [change.job for change in done]

    async def _whole(self, batch: Batch, request: IdempotencyKey | None) -> Batch:
        jobs = list(batch.jobs.values())
        try:
            return Batch(dict(enumerate(await self._store.add(jobs, request))))
        except ReelhaulError as error:
            if error.reason != ErrorReason.RESOURCE_EXISTS:
                raise
            names = [job.name for job in jobs]
            field = f"requests[{names.index(error.metadata['resource'])}].job_id"
            violations = [Violation(field, "it is taken")]
            text, told = f"{field}: {error.text}", error.metadata
            raise ReelhaulError(error.reason, text, metadata=told, violations=violations) from error

    async def _in_part(self, batch: Batch, request: IdempotencyKey | None) -> Batch:
        kept = await self._store.add_batch(batch, request)
        if not kept.jobs:
            raise none_admitted(kept.failed[min(kept.failed)], len(kept.failed))
        return kept


def none_admitted(first: status_pb2.Status, count: int) -> ReelhaulError:
    """BATCH_FAILED: none of *count* requests was admitted, the *first* for this."""
    return ReelhaulError(
        ErrorReason.BATCH_FAILED,
        f"none of {count} was admitted; the first: {first.message}",
        metadata={"failedCount": str(count)},
    )
