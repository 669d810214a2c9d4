"""Jobs: what callers may do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import preflight, queue_transitions, user_actions, wait_reason
from reelhaul_jobs.model.job import Attempt, Job
from reelhaul_jobs.model.lists import CountQuery, Summary
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import ChangeRule, IdempotencyKey, JobStore, Page, Query
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock, Probe
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import NotFound

#: Whose jobs a caller may see: a tenant's, or, for services of ours, everyone's (None).
Owner = str | None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its reader is told of it."""

    job: Job
    wait: wait_reason.Wait | None = None
    estimate: media_pb2.Estimate | None = None
    #: Of an expansion: how many of its jobs are in which state; None: not counted.
    children: Mapping[State, int] | None = None


class Jobs:
    """What one may do with download jobs."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        hub: EventHub,
        news: ChangeNotifier,
        probe: Probe,
        now: Clock,
        limits: SiteLimits | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._hub = hub
        self._news = news
        self._probe = probe
        self._now = now
        self._limits = limits or SiteLimits()

    async def create(self, job: Job, request: IdempotencyKey | None) -> JobView:
        """Admit *job*: on disk when this returns. The same request again is the same job.

        Raises RESOURCE_EXISTS, REQUEST_ID_REUSED, FIELD_INVALID.
        """
        failpoints.hit("jobs.create.before_commit")
        (kept,) = await self._store.add([queue_transitions.enqueue(job)], request)
        failpoints.hit("jobs.create.after_commit")
        await self._news.tell_row(kept)
        return JobView(kept, wait_reason.explain_wait(kept))

    async def created(self, request: IdempotencyKey | None) -> JobView | None:
        """The job of an earlier call with this *request*; None where there was none. REQUEST_ID_REUSED."""
        if request is None or (kept := await self._store.find_by_idempotency_key(request)) is None:
            return None
        return JobView(kept[0], wait_reason.explain_wait(kept[0]))

    async def preflight(self, job: Job) -> JobView:
        """*job* as it would be, with what the site says; nothing is admitted. Raises what that means."""
        listed = job.expansion.max_entries if job.expansion else 0
        media, estimate = await self._probe.estimate(job.url, job.format, listed)
        preflight.check(job.format, media, estimate)
        would_be = replace(queue_transitions.enqueue(job), media=media)
        return JobView(would_be, wait_reason.explain_wait(would_be), estimate)

    async def get(self, job_id: str, owner: Owner) -> JobView:
        """The job with its newest progress, and why it waits. ``NotFound`` for others' jobs."""
        job = self.with_latest_progress(_owned(await self._store.get(job_id), owner))
        children = await self._store.count_children(job.id) if job.kind is Kind.EXPANSION else None
        if job.state is not State.QUEUED:
            return JobView(job, wait_reason.explain_wait(job), children=children)
        now = self._now()
        place = await self._store.get_queue_position(job)
        slots, present = await self._queue.count_worker_slots(now), self._hub.roll.present()
        site = wait_reason.explain_site_wait(
            await self._queue.get_site_status(job.site, now), self._limits, now
        )
        crew = wait_reason.WorkerAvailability(
            any_alive=slots > 0 or bool(present), shortage=wait_reason.find_shortage(present, slots)
        )
        return JobView(
            job, wait_reason.explain_wait(job, position=place, workers=crew, site=site), children=children
        )

    async def page(self, query: Query) -> Page:
        """A page of jobs."""
        return await self._store.list_page(query)

    async def summary(self, asked: CountQuery) -> Summary:
        """What became of the jobs of a stretch of time."""
        return await self._store.summarize(asked)

    async def cancel(self, job_id: str, owner: Owner, *, reason: str = "", etag: str = "") -> JobView:
        """Stop the job for good. STATE_CONFLICT where it ended otherwise; ETAG_MISMATCH."""
        return await self._changed(
            job_id, owner, etag, lambda job: queue_transitions.cancel(job, self._now(), reason)
        )

    async def stop_recording(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """End its recording, and keep it. STATE_CONFLICT where nothing is recorded; ETAG_MISMATCH."""
        return await self._changed(
            job_id, owner, etag, lambda job: user_actions.stop_recording(job, self._now())
        )

    async def retry(
        self, job_id: str, owner: Owner, *, etag: str = "", request: IdempotencyKey | None = None
    ) -> JobView:
        """Queue a FAILED or CANCELLED job again. STATE_CONFLICT for any other; ETAG_MISMATCH."""
        return await self._changed(
            job_id, owner, etag, lambda job: queue_transitions.retry(job, self._now()), request
        )

    async def pause(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """Hold the job until it is resumed. STATE_CONFLICT where it has ended; ETAG_MISMATCH."""
        return await self._changed(job_id, owner, etag, lambda job: user_actions.pause(job, self._now()))

    async def resume(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """Let a held job go on. STATE_CONFLICT where it has ended; ETAG_MISMATCH."""
        return await self._changed(job_id, owner, etag, lambda job: user_actions.resume(job, self._now()))

    async def update(
        self, job_id: str, owner: Owner, update: user_actions.Update, *, etag: str = ""
    ) -> JobView:
        """Change what *update* names. STATE_CONFLICT where it is too late for that; ETAG_MISMATCH."""
        return await self._changed(
            job_id, owner, etag, lambda job: user_actions.update(job, update, self._now())
        )

    async def delete(self, job_id: str, owner: Owner, *, etag: str = "", allow_missing: bool = False) -> None:
        """Remove the job, cancelling it first where it lives. Its artifacts follow. ETAG_MISMATCH."""
        try:
            await self._changed(job_id, owner, etag, lambda job: queue_transitions.delete(job, self._now()))
        except NotFound:
            if not allow_missing:
                raise

    async def attempt(self, job_id: str, number: int, owner: Owner) -> Attempt:
        """One attempt of the job, or ``NotFound``."""
        _owned(await self._store.get(job_id), owner)
        return await self._store.get_attempt(job_id, number)

    async def attempts(
        self, job_id: str, owner: Owner, *, below: int | None, limit: int
    ) -> Sequence[Attempt]:
        """The job's attempts, the newest first, from under *below*."""
        _owned(await self._store.get(job_id), owner)
        return await self._store.list_attempts(job_id, below=below, limit=limit)

    def with_latest_progress(self, job: Job) -> Job:
        """*job* with the newest progress of its lease, where the bus told a newer one than the row."""
        notice = self._hub.newest(job.id)
        if notice is None or not job.is_leased or notice.epoch != job.epoch:
            return job
        return job.replace_fields(progress=notice.progress)

    async def _changed(
        self, job_id: str, owner: Owner, etag: str, rule: ChangeRule, request: IdempotencyKey | None = None
    ) -> JobView:
        def guarded(job: Job) -> Transition:
            _owned(job, owner)
            if job.delete_time is not None:
                raise NotFound(job.name)
            queue_transitions.check_etag(job, etag)
            return rule(job)

        change = await self._store.change(job_id, guarded, request)
        await self._news.tell(change)
        return JobView(self.with_latest_progress(change.job), wait_reason.explain_wait(change.job))


def _owned(job: Job, owner: Owner) -> Job:
    if owner is not None and job.tenant != owner:
        raise NotFound(job.name)
    return job
