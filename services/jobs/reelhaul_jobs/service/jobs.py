"""Jobs: the use cases of one download job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reelhaul_jobs.model import deliveries, preflight, queue_transitions, user_actions
from reelhaul_jobs.model.job import Attempt, Job
from reelhaul_jobs.model.lists import CountQuery, Summary
from reelhaul_jobs.model.results import JobView, Owner
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import (
    ChangeRule,
    FindKept,
    IdempotencyKey,
    JobStore,
    JobVersion,
    KeptJob,
    Page,
    Query,
)
from reelhaul_jobs.ports.services import Clock, Probe
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import NotFound


class Jobs:
    """Creates, reads and changes download jobs.

    *owner* restricts each call to one tenant's jobs: another tenant's job raises ``NotFound``.
    A non-empty *etag* that is not the job's present one raises ETAG_MISMATCH.
    """

    def __init__(
        self,
        store: JobStore,
        views: JobViews,
        notifier: ChangeNotifier,
        probe: Probe,
        now: Clock,
    ) -> None:
        self._store = store
        self._views = views
        self._notifier = notifier
        self._probe = probe
        self._now = now

    async def create(self, job: Job, key: IdempotencyKey | None) -> JobView:
        """Store *job*; it is on disk when this returns. The same *key* again returns the same job.

        Raises RESOURCE_EXISTS, REQUEST_ID_REUSED, QUOTA_EXCEEDED, FIELD_INVALID.
        """
        failpoints.hit("jobs.create.before_commit")
        (stored,) = await self._store.add([queue_transitions.enqueue(job)], key)
        failpoints.hit("jobs.create.after_commit")
        await self._notifier.notify_job(stored)
        return JobView.from_row(stored)

    async def find_created(self, key: IdempotencyKey | None) -> JobView | None:
        """Return the job of an earlier call with this *key*; None where there was none.

        Raises REQUEST_ID_REUSED.
        """
        if key is None or (jobs := await self._store.find_by_idempotency_key(key)) is None:
            return None
        return JobView.from_row(jobs[0])

    async def preflight(self, job: Job) -> JobView:
        """Return *job* as it would be, with what the site says; store nothing.

        Raises what the site's answer means.
        """
        max_entries = job.expansion.max_entries if job.expansion else 0
        media, estimate = await self._probe.estimate(job.url, job.format, max_entries)
        preflight.check(job.format, media, estimate)
        view = JobView.from_row(replace(queue_transitions.enqueue(job), media=media))
        return replace(view, estimate=estimate)

    async def get_or_kept(self, job_id: str, owner: Owner, find_kept: FindKept) -> JobView | bytes:
        """Return what *find_kept* returns for the job's version, or the job with its progress and wait."""

        def find_own(version: JobVersion) -> bytes | None:
            return find_kept(version) if owner in (None, version.tenant) else None

        job = await self._store.get_or_kept(job_id, find_own)
        return job if isinstance(job, bytes) else await self._views.view_with_position(_owned(job, owner))

    async def page(self, query: Query, find_kept: FindKept) -> Page[JobView | KeptJob]:
        """Return a page of jobs, with their latest progress and why they wait.

        In place of a job for which *find_kept* returns something there is a KeptJob.
        """
        page = await self._store.list_page_or_kept(query, find_kept)
        views = await self._views.list_views([job for job in page.jobs if isinstance(job, Job)])
        # In lists, expansions show no counts of their jobs.
        by_id = {view.job.id: JobView(view.job, view.wait) for view in views}
        items = [job if isinstance(job, KeptJob) else by_id[job.id] for job in page.jobs]
        return Page(items, page.has_more, page.total)

    async def views(self, jobs: Sequence[Job]) -> Sequence[JobView]:
        """Return *jobs* with their latest progress and why they wait."""
        return await self._views.list_views(jobs)

    async def summary(self, query: CountQuery) -> Summary:
        """Count the jobs created in a time range."""
        return await self._store.summarize(query)

    async def cancel(self, job_id: str, owner: Owner, *, reason: str = "", etag: str = "") -> JobView:
        """Stop the job for good. STATE_CONFLICT where it ended otherwise."""
        return await self._change(
            job_id, owner, etag, lambda job: queue_transitions.cancel(job, self._now(), reason)
        )

    async def stop_recording(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """End the recording and keep what there is. STATE_CONFLICT where nothing is recorded."""
        return await self._change(
            job_id, owner, etag, lambda job: user_actions.stop_recording(job, self._now())
        )

    async def retry(
        self, job_id: str, owner: Owner, *, etag: str = "", key: IdempotencyKey | None = None
    ) -> JobView:
        """Queue a FAILED or CANCELLED job again. STATE_CONFLICT for any other."""
        return await self._change(
            job_id, owner, etag, lambda job: queue_transitions.retry(job, self._now()), key
        )

    async def redeliver(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """Start the failed deliveries of the job again. STATE_CONFLICT where there are none."""
        return await self._change(job_id, owner, etag, lambda job: deliveries.redeliver(job, self._now()))

    async def pause(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """Hold the job until it is resumed. STATE_CONFLICT where it has ended."""
        return await self._change(job_id, owner, etag, lambda job: user_actions.pause(job, self._now()))

    async def resume(self, job_id: str, owner: Owner, *, etag: str = "") -> JobView:
        """Let a paused job continue. STATE_CONFLICT where it has ended."""
        return await self._change(job_id, owner, etag, lambda job: user_actions.resume(job, self._now()))

    async def update(
        self, job_id: str, owner: Owner, update: user_actions.Update, *, etag: str = ""
    ) -> JobView:
        """Change what *update* names. STATE_CONFLICT where it is too late for that."""
        return await self._change(
            job_id, owner, etag, lambda job: user_actions.update(job, update, self._now())
        )

    async def delete(self, job_id: str, owner: Owner, *, etag: str = "", allow_missing: bool = False) -> None:
        """Remove the job, cancelling it first where it is active; its artifacts are removed later."""
        try:
            await self._change(job_id, owner, etag, lambda job: queue_transitions.delete(job, self._now()))
        except NotFound:
            if not allow_missing:
                raise

    async def attempt(self, job_id: str, number: int, owner: Owner) -> Attempt:
        """Return one attempt of the job, or raise ``NotFound``."""
        _owned(await self._store.get(job_id), owner)
        return await self._store.get_attempt(job_id, number)

    async def attempts(
        self, job_id: str, owner: Owner, *, below: int | None, limit: int
    ) -> Sequence[Attempt]:
        """Return the job's attempts with a number under *below*, the latest first."""
        _owned(await self._store.get(job_id), owner)
        return await self._store.list_attempts(job_id, below=below, limit=limit)

    async def _change(
        self, job_id: str, owner: Owner, etag: str, rule: ChangeRule, key: IdempotencyKey | None = None
    ) -> JobView:
        def checked_rule(job: Job) -> Transition:
            _owned(job, owner)
            if job.delete_time is not None:
                raise NotFound(job.name)
            queue_transitions.check_etag(job, etag)
            return rule(job)

        transition = await self._store.change(job_id, checked_rule, key)
        await self._notifier.notify(transition)
        return JobView.from_row(self._views.with_latest_progress(transition.job))


def _owned(job: Job, owner: Owner) -> Job:
    if owner is not None and job.tenant != owner:
        raise NotFound(job.name)
    return job
