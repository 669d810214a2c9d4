"""Change notifier: after a commit, tells watchers, other replicas and workers that rows changed."""

from __future__ import annotations

from collections.abc import Sequence

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.service.attempt_spans import AttemptSpans
from reelhaul_jobs.service.event_hub import EventHub


class ChangeNotifier:
    """Sends notifications. Any of them may be lost: the rows are the truth, and loops read them again."""

    def __init__(self, hub: EventHub, bus: JobBus, attempts: AttemptSpans | None = None) -> None:
        self._hub = hub
        self._bus = bus
        self._attempts = attempts

    async def notify(self, transition: Transition) -> None:
        """Notify of a committed *transition*; do nothing where it changed no revision."""
        if transition.job.revision == transition.before.revision:
            return
        if transition.needs_worker_attention:
            await self._bus.notify_worker(transition.job)
        await self.notify_job(transition.job)
        if self._attempts is not None:
            await self._attempts.record(transition)

    async def notify_jobs(self, jobs: Sequence[Job]) -> None:
        """Notify that the rows of *jobs* were added or changed."""
        for job in jobs:
            await self.notify_job(job)

    async def notify_job(self, job: Job) -> None:
        """Notify that the row of *job* was added or changed."""
        if job.state.is_terminal:
            self._hub.drop_progress(job.id)
        ready = job.queue_stage is QueueStage.READY
        self._hub.publish_row_change(job.id, job.revision, job.tenant, ready=ready)
        await self._bus.notify_changed(job)
