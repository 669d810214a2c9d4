"""Views of jobs: their wait reasons, lost workers, and the progress of their children."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import playlist_expansion, wait_reason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.wait_reason import Wait, WorkerAvailability
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.quotas import QuotaStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub

# Seconds for which the status of workers and sites is cached.
_CACHE_SECONDS = 1.0
_MAX_SITES = 1000
# Sites of a list whose status is read; jobs of further sites show no site limit.
_MAX_LISTED_SITES = 64
# Expansions of a list that are shown with the progress of their children.
_MAX_LISTED_EXPANSIONS = 20
# Running jobs of an expansion whose progress is read; more than most suites have slots.
_MAX_RUNNING = 500


class JobViews:
    """Builds the same views of jobs for GetJob, lists and watches."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        hub: EventHub,
        now: Clock,
        lease: timedelta,
        limits: SiteLimits | None = None,
        quotas: QuotaStore | None = None,
    ) -> None:
        """*quotas*: None shows no job as waiting for a quota."""
        self._store, self._queue, self._hub, self._now = store, queue, hub, now
        self._quotas = quotas
        self._lease, self._limits = lease, limits or SiteLimits()
        self._workers: tuple[float, WorkerAvailability] = (float("-inf"), WorkerAvailability())
        # By site, with the time of the read.
        self._sites: dict[str, tuple[float, Wait | None]] = {}
        # By tenant and key.
        self._full: dict[tuple[str, str], tuple[float, Wait | None]] = {}

    async def view(self, job: Job) -> JobView:
        """Return *job* with the progress of its worker or its children, and why it does not run."""
        job = self.with_latest_progress(job)
        if job.kind is Kind.EXPANSION:
            return await self._view_expansion(job)
        return self._view_lost_worker(job) or JobView(job, await self._explain(job))

    async def view_with_position(self, job: Job) -> JobView:
        """Return the view of *job* as of now, with its position in the queue."""
        self.clear_caches()
        view = await self.view(job)
        if view.wait is None or job.state is not State.QUEUED:
            return view
        position = await self._store.get_queue_position(job)
        return replace(view, wait=replace(view.wait, position=position))

    def clear_caches(self) -> None:
        """Clear the cached status of workers, sites and quotas."""
        self._workers = (float("-inf"), WorkerAvailability())
        self._sites.clear()
        self._full.clear()

    async def list_views(self, jobs: Sequence[Job], *, with_children: bool = True) -> Sequence[JobView]:
        """Return the views of *jobs*, the first expansions among them with the progress of their children."""
        waiting = dict.fromkeys(job.site for job in jobs if job.state is State.QUEUED)
        sites = set(list(waiting)[:_MAX_LISTED_SITES])
        views = list[JobView]()
        limit = _MAX_LISTED_EXPANSIONS if with_children else 0
        expansions = [job.id for job in jobs if job.kind is Kind.EXPANSION][:limit]
        for job in map(self.with_latest_progress, jobs):
            if job.id in expansions:
                views.append(await self._view_expansion(job))
            elif job.state.is_terminal:
                views.append(JobView(job))
            else:
                view = self._view_lost_worker(job)
                views.append(view or JobView(job, await self._explain(job, reads_site=job.site in sites)))
        return views

    def with_latest_progress(self, job: Job) -> Job:
        """Return *job* with the latest progress of its lease, where the bus has a newer one than the row."""
        notice = self._hub.latest_progress(job.id)
        if notice is None or not job.is_leased or notice.epoch != job.epoch:
            return job
        return job.replace_fields(progress=notice.progress)

    async def _explain(self, job: Job, *, reads_site: bool = True) -> Wait | None:
        if job.state is not State.QUEUED:
            return wait_reason.explain_wait(job)
        site = await self._site_wait(job.site) if reads_site else None
        quota = await self._quota_wait(job.tenant, job.api_key) if job.quota_day is not None else None
        workers = await self._worker_availability()
        return wait_reason.explain_wait(job, workers=workers, site=site, quota=quota)

    def _view_lost_worker(self, job: Job) -> JobView | None:
        """Return the view of a job whose worker is lost; None for any other."""
        wait = wait_reason.explain_lost_worker(job, self._hub.progress_age(job.id), self._lease, self._now())
        if wait is None:
            return None
        progress = wait_reason.progress_of_lost_worker(job.progress, wait)
        return JobView(job.replace_fields(progress=progress), wait)

    async def _view_expansion(self, job: Job) -> JobView:
        counts = await self._store.count_children(job.id)
        running = list[media_pb2.Progress]()
        if any(counts.get(state) for state in (State.RUNNING, State.CANCELLING)):
            for child in await self._store.list_leased_children(job.id, _MAX_RUNNING):
                view = self._view_lost_worker(self.with_latest_progress(child))
                progress = view.job.progress if view else self.with_latest_progress(child).progress
                running.append(progress or media_pb2.Progress())
        received = await self._store.sum_children_bytes(job.id) if counts else 0
        lost = self._view_lost_worker(job)
        wait = lost.wait if lost else await self._explain(job)
        progress = playlist_expansion.summarize_progress(job, counts, running, received)
        return JobView(job.replace_fields(progress=progress), wait, children=counts)

    async def _worker_availability(self) -> WorkerAvailability:
        read_at, availability = self._workers
        if time.monotonic() - read_at > _CACHE_SECONDS:
            slots, workers = await self._queue.count_worker_slots(self._now()), self._hub.workers.active()
            availability = WorkerAvailability(
                any_alive=slots > 0 or bool(workers), shortage=wait_reason.find_shortage(workers, slots)
            )
            self._workers = time.monotonic(), availability
        return availability

    async def _quota_wait(self, tenant: str, api_key: str) -> Wait | None:
        if self._quotas is None:
            return None
        read_at, wait = self._full.get((tenant, api_key), (float("-inf"), None))
        if time.monotonic() - read_at > _CACHE_SECONDS:
            full = await self._quotas.find_full_account(tenant, api_key)
            wait = wait_reason.explain_quota_wait(*full) if full else None
            if len(self._full) >= _MAX_SITES:
                self._full.clear()
            self._full[tenant, api_key] = time.monotonic(), wait
        return wait

    async def _site_wait(self, site: str) -> Wait | None:
        read_at, wait = self._sites.get(site, (float("-inf"), None))
        if time.monotonic() - read_at > _CACHE_SECONDS:
            now = self._now()
            status = await self._queue.get_site_status(site, now)
            wait = wait_reason.explain_site_wait(status, self._limits, now)
            if len(self._sites) >= _MAX_SITES:
                self._sites.clear()
            self._sites[site] = time.monotonic(), wait
        return wait
