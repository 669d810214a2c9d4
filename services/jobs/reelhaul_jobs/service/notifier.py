"""News: what is said after a commit, to watchers, other replicas and workers."""

from __future__ import annotations

from collections.abc import Sequence

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.service.event_hub import EventHub


class ChangeNotifier:
    """Says that rows changed. All of it may be lost: rows are the truth, and loops look again."""

    def __init__(self, hub: EventHub, bus: JobBus) -> None:
        self._hub = hub
        self._bus = bus

    async def tell(self, change: Transition) -> None:
        """Say what *change*, committed, means to others."""
        if change.job.revision == change.before.revision:
            return
        if change.needs_worker_attention:
            await self._bus.notify_worker(change.job)
        await self.tell_row(change.job)

    async def tell_all(self, jobs: Sequence[Job]) -> None:
        """Say that new *jobs* are there."""
        for job in jobs:
            await self.tell_row(job)

    async def tell_row(self, job: Job) -> None:
        """Say that the row of *job* changed."""
        if job.state.is_terminal:
            self._hub.forget(job.id)
        self._hub.row_changed(job.id, job.revision, job.tenant, ready=job.queue_stage is QueueStage.READY)
        await self._bus.notify_changed(job)
