"""Reaper: requeues jobs whose lease expired or whose work item was lost, and readies jobs that are due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from reelhaul_jobs.model import leases, queue_transitions, transition
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.bus import JobBus
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.dispatcher import republish_delay
from reelhaul_runtime.errors import NotFound

log = logging.getLogger(__name__)

_BATCH = 500
# Longer than the time between any two steps.
_MIN_ABSENCE = timedelta(seconds=3)
_FOREVER = timedelta(days=36500)
# The clock was put back if it is further behind the last step than a correction of drift moves it.
_SMALL_CORRECTION = timedelta(seconds=1)


class Reaper:
    """Makes sure that no job is stuck, from the rows alone."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        bus: JobBus,
        notifier: ChangeNotifier,
        now: Clock,
        lease: timedelta,
    ) -> None:
        self._store = store
        self._queue = queue
        self._bus = bus
        self._notifier = notifier
        self._now = now
        self._lease, self._republish_delay = lease, republish_delay(lease)
        # A worker renews every third of its lease and may be a little late.
        self._grace = lease / 6
        # While this service or its database was away, nobody could renew: give all workers time to.
        self._renewal_time = lease / 2
        self._expire_from = now() + self._renewal_time
        self._absence = max(lease / 3, _MIN_ABSENCE)
        self._last_step, self._was_absent = now(), False

    async def step(self) -> bool:
        """Check every queue stage once; return whether more may be due at once.

        Raises Unavailable, with the rows checked, while the broker does not answer.
        """
        now = self._now()
        if self._last_step - now > _SMALL_CORRECTION:
            log.warning("the clock was put back", extra={"seconds": (self._last_step - now).total_seconds()})
            await self.bring_forward_due_times()
        self._detect_absence(now)
        changed = await self._sweep(QueueStage.LATER, now, lambda job: queue_transitions.make_ready(job, now))
        if now >= self._expire_from:
            changed += await self._sweep(
                QueueStage.LEASED, now - self._grace, lambda job: leases.expire(job, now, self._grace)
            )
        try:
            changed += await self._requeue_lost_items(now)
        finally:
            self._last_step = self._now()
        return changed >= _BATCH

    async def bring_forward_due_times(self) -> None:
        """Bring forward what is due later than the clock can have said: it was ahead, here or elsewhere.

        Else nothing would happen to these jobs until the clock is there again. A new leader does it first.
        """
        now = self._now()
        self._last_step, self._expire_from = now, now + self._renewal_time
        for stage, longest in (
            (QueueStage.LEASED, self._lease),
            (QueueStage.PUBLISHED, self._republish_delay),
            (QueueStage.LATER, timedelta(0)),
        ):
            # Clocks of replicas differ a little.
            after = now + 2 * longest
            while await self._change(
                await self._queue.list_due_after(stage, after, _BATCH),
                partial(_due_within, stage=stage, now=now, longest=longest),
            ):
                pass

    def _detect_absence(self, now: datetime) -> None:
        """Let no lease expire for a while if the last good step is so long ago that we were stopped since."""
        absent = now - self._last_step > self._absence
        # Not twice in a row: a loop that is only slow must not keep dead workers' jobs for ever.
        if absent and not self._was_absent:
            self._expire_from = now + self._renewal_time
        self._was_absent = absent

    async def _requeue_lost_items(self, now: datetime) -> int:
        """Make ready again the jobs whose item the broker lost; return how many."""
        if await self._bus.ensure_streams():
            total = 0
            while changed := await self._sweep(
                QueueStage.PUBLISHED, now + _FOREVER, lambda job: queue_transitions.republish(job, now)
            ):
                total += changed
            # At the first start nothing was in it.
            level = logging.WARNING if total else logging.INFO
            log.log(
                level, "the work stream was created; its items are published again", extra={"items": total}
            )
            return total
        ids = await self._queue.list_due(QueueStage.PUBLISHED, now, _BATCH)
        if not ids:
            return 0
        # Items wait where all workers are busy. Only if the broker has fewer than the rows was one lost.
        in_flight = await self._queue.count_in_stages([QueueStage.PUBLISHED, QueueStage.LEASED])
        if await self._bus.count_work_items() < in_flight:
            return await self._change(ids, lambda job: queue_transitions.republish(job, now))
        await self._change(ids, lambda job: _checked_again_at(job, now + self._republish_delay))
        return 0

    async def _sweep(self, stage: QueueStage, before: datetime, rule: Callable[[Job], Transition]) -> int:
        return await self._change(await self._queue.list_due(stage, before, _BATCH), rule)

    async def _change(self, ids: Sequence[str], rule: Callable[[Job], Transition]) -> int:
        """Apply *rule* to each job; return how many it changed."""
        return sum(await asyncio.gather(*(self._change_one(job_id, rule) for job_id in ids)))

    async def _change_one(self, job_id: str, rule: Callable[[Job], Transition]) -> bool:
        try:
            change = await self._store.change(job_id, rule)
        except NotFound:
            return False
        await self._notifier.notify(change)
        return change.changed


def _due_within(job: Job, *, stage: QueueStage, now: datetime, longest: timedelta) -> Transition:
    """Let *job*, which is in *stage*, be due *longest* from *now* at the latest.

    One that waits is changed only if it waits for a retry, whose back-off has a limit of its own.
    """
    if stage is QueueStage.LATER:
        longest = job.retry.max_backoff if job.state is State.RETRYING else _FOREVER
    if job.queue_stage is not stage or job.due is None or job.due <= now + longest:
        return transition.no_change(job)
    return Transition(before=job, job=job.replace_fields(due=now + longest))


def _checked_again_at(job: Job, due: datetime) -> Transition:
    if job.queue_stage is not QueueStage.PUBLISHED:
        return transition.no_change(job)
    return Transition(before=job, job=job.replace_fields(due=due))
