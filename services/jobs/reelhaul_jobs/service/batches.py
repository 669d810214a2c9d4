"""Batches: the use cases of many jobs in one call, each in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import queue_transitions, transition
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.states import RETRY_TRANSITIONS
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import IdempotencyKey, JobStore, Query
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.filters.ast import And, Node, Operator, Or, Term

#: Jobs that one call may retry.
MAX_RETRIED = 1000

_RETRYABLE = Or(tuple(Term("state", Operator.EQUAL, int(state)) for state in RETRY_TRANSITIONS))


@dataclass(frozen=True, slots=True)
class RetryResult:
    """Jobs retried, or that would be; ``more``: the filter matches others that are not among them."""

    jobs: Sequence[Job]
    more: bool = False


class Batches:
    """Creates, reads and changes many jobs at once."""

    def __init__(self, store: JobStore, notifier: ChangeNotifier, now: Clock) -> None:
        self._store = store
        self._notifier = notifier
        self._now = now

    async def create(self, batch: Batch, key: IdempotencyKey | None, *, partial: bool) -> Batch:
        """Store the jobs of *batch*; they are on disk when this returns. Return what became of each.

        All or none, unless *partial*. Raises RESOURCE_EXISTS (an id is taken) and
        REQUEST_ID_REUSED; BATCH_FAILED where *partial* and none of the jobs could be stored.
        """
        jobs = {index: queue_transitions.enqueue(job) for index, job in batch.jobs.items()}
        if partial:
            stored = await self._store.add_batch(Batch(jobs, batch.failed), key)
            if not stored.jobs:
                raise _batch_failed(stored.failed)
        else:
            stored = Batch(dict(enumerate(await self._store.add(list(jobs.values()), key))))
        await self._notifier.notify_jobs(list(stored.jobs.values()))
        return stored

    async def find_created(self, key: IdempotencyKey | None) -> Batch | None:
        """Return the jobs of an earlier call with this *key*; None where there was none.

        Raises REQUEST_ID_REUSED.
        """
        if key is None or (jobs := await self._store.find_by_idempotency_key(key)) is None:
            return None
        return Batch(dict(enumerate(jobs)))

    async def get(self, job_ids: Sequence[str], owner: Owner) -> Sequence[Job]:
        """Return the jobs in the order of *job_ids*; ``NotFound`` for the first that is not *owner*'s."""
        jobs = {job.id: job for job in await self._store.get_many(job_ids) if owner in (None, job.tenant)}
        for job_id in job_ids:
            if job_id not in jobs:
                raise NotFound(f"jobs/{job_id}")
        return [jobs[job_id] for job_id in job_ids]

    async def cancel(self, job_ids: Sequence[str], owner: Owner) -> Sequence[Job]:
        """Stop the jobs for good; those that have ended stay as they are.

        ``NotFound`` as in ``get``; then none is stopped.
        """
        now = self._now()
        await self.get(job_ids, owner)

        def rule(job: Job) -> Transition:
            if job.delete_time is not None:
                raise NotFound(job.name)
            if job.state.is_terminal:
                return transition.no_change(job)
            return queue_transitions.cancel(job, now)

        return await self._notified(await self._store.change_many(job_ids, rule))

    async def retry(
        self,
        job_ids: Sequence[str],
        where: Node | None,
        owner: Owner,
        key: IdempotencyKey | None,
        *,
        dry_run: bool = False,
    ) -> RetryResult:
        """Queue again the FAILED and CANCELLED jobs of *job_ids*, or else the oldest that *where* matches.

        *dry_run*: only return which they are. ``NotFound`` as in ``get``; then none is queued.
        """
        now, retryable = self._now(), await self._retryable(job_ids, where, owner)
        if dry_run:
            return retryable

        def rule(job: Job) -> Transition | None:
            if job.delete_time is not None or job.state not in RETRY_TRANSITIONS:
                return None
            return queue_transitions.retry(job, now)

        transitions = await self._store.change_many([job.id for job in retryable.jobs], rule, key)
        return RetryResult(await self._notified(transitions), retryable.more)

    async def _retryable(self, job_ids: Sequence[str], where: Node | None, owner: Owner) -> RetryResult:
        if job_ids:
            jobs = await self.get(job_ids, owner)
            return RetryResult([job for job in jobs if job.state in RETRY_TRANSITIONS])
        narrowed = _RETRYABLE if where is None else And((where, _RETRYABLE))
        query = Query(tenant=owner, limit=MAX_RETRIED, descending=False, where=narrowed, total=0)
        page = await self._store.list_page(query)
        return RetryResult(page.jobs, page.has_more)

    async def _notified(self, transitions: Sequence[Transition]) -> Sequence[Job]:
        for each in transitions:
            await self._notifier.notify(each)
        return [each.job for each in transitions]


def _batch_failed(failed: Mapping[int, status_pb2.Status]) -> ReelhaulError:
    """Return BATCH_FAILED: all requests of a batch failed, with the reason of the first."""
    first = failed[min(failed)].message
    return ReelhaulError(
        ErrorReason.BATCH_FAILED,
        f"none of {len(failed)} was admitted; the first: {first}",
        metadata={"failedCount": str(len(failed))},
    )
