"""The sweeper: finds jobs whose time has come, workers that went silent, items that were lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from reelhaul_jobs.model import leases, queue_transitions, transition
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.dispatcher import republish_delay
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound, Unavailable

log = logging.getLogger(__name__)

_BATCH = 500
# Longer than any rest between two steps.
_NO_REST = timedelta(seconds=3)
_FAR = timedelta(days=36500)


class Reaper:
    """Makes sure that nothing is stuck, from rows alone."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        bus: JobBus,
        news: ChangeNotifier,
        now: Clock,
        lease: timedelta,
    ) -> None:
        self._store = store
        self._queue = queue
        self._bus = bus
        self._news = news
        self._now = now
        self._look_again = republish_delay(lease)
        # A worker renews every third of its lease and may be late by a little.
        self._grace = lease / 6
        # While this service, or its database, was away nobody could renew: give all workers the time to.
        self._time_to_renew = lease / 2
        self._lapse_from = now() + self._time_to_renew
        self._away_after = max(lease / 3, _NO_REST)
        self._last_step, self._was_absent = now(), False

    async def step(self) -> bool:
        """Look after everything once. Whether there may be more to do at once."""
        now = self._now()
        self._note_absence(now)
        found = await self._sweep(QueueStage.LATER, now, lambda job: queue_transitions.make_ready(job, now))
        if now >= self._lapse_from:
            late = now - self._grace
            found += await self._sweep(
                QueueStage.LEASED, late, lambda job: leases.expire(job, now, self._grace)
            )
        try:
            found += await self._recover(now)
        except Unavailable:
            log.warning("the broker is away; its items are looked after later")
        self._last_step = self._now()
        return found >= _BATCH

    def _note_absence(self, now: datetime) -> None:
        """Let no lease lapse for a while if the last good step is so long ago that we were stopped since."""
        absent = now - self._last_step > self._away_after
        # Not twice in a row: a loop that is only slow must not keep dead workers' jobs for ever.
        if absent and not self._was_absent:
            self._lapse_from = now + self._time_to_renew
        self._was_absent = absent

    async def _recover(self, now: datetime) -> int:
        """Give items that the broker lost back to the dispatcher."""
        if await self._bus.ensure_streams():
            log.warning("the work stream was made anew; all that was in it is published again")
            total = 0
            while found := await self._sweep(
                QueueStage.PUBLISHED, now + _FAR, lambda job: queue_transitions.republish(job, now)
            ):
                total += found
            return total
        ids = await self._queue.list_due(QueueStage.PUBLISHED, now, _BATCH)
        if not ids:
            return 0
        # An item waits where all workers are busy; only where some are missing was one lost.
        held = await self._queue.count_in_stages([QueueStage.PUBLISHED, QueueStage.LEASED])
        if await self._bus.count_work_items() < held:
            return await self._change(ids, lambda job: queue_transitions.republish(job, now))
        await self._change(ids, lambda job: _looked_after(job, now + self._look_again))
        return 0

    async def _sweep(self, lane: QueueStage, before: datetime, rule: Callable[[Job], Transition]) -> int:
        return await self._change(await self._queue.list_due(lane, before, _BATCH), rule)

    async def _change(self, ids: Sequence[str], rule: Callable[[Job], Transition]) -> int:
        """How many jobs *rule* changed."""
        return sum(await asyncio.gather(*(self._change_one(job_id, rule) for job_id in ids)))

    async def _change_one(self, job_id: str, rule: Callable[[Job], Transition]) -> bool:
        try:
            made = await self._store.change(job_id, rule)
        except NotFound:
            return False
        await self._news.tell(made)
        return made.changed


def _looked_after(job: Job, again: datetime) -> Transition:
    if job.queue_stage is not QueueStage.PUBLISHED:
        return transition.no_change(job)
    return Transition(before=job, job=job.replace_fields(due=again))
