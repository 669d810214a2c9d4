"""The cascader: cancels the jobs of expansions that were cancelled, until none of them lives."""

from __future__ import annotations

import asyncio
from functools import partial

from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound

_PARENTS = 20
_BATCH = 200


class CascadeCanceller:
    """Follows the rows that say: its jobs are to be cancelled with it."""

    def __init__(self, store: JobStore, queue: QueueStore, news: ChangeNotifier, now: Clock) -> None:
        self._store = store
        self._queue = queue
        self._news = news
        self._now = now

    async def step(self) -> bool:
        """Cancel some jobs of each such expansion. Whether there may be more to do at once."""
        parents = await self._queue.list_cascade_cancellations(_PARENTS)
        done = [await self._cascade(parent) for parent in parents]
        return not all(done) or len(parents) == _PARENTS

    async def _cascade(self, parent: Job) -> bool:
        """Whether none of *parent*'s jobs was left."""
        ids = await self._queue.list_active_children(parent.id, _BATCH)
        await asyncio.gather(*(self._cancel(job_id, parent) for job_id in ids))
        if not ids:
            # It makes no more: a list is paged through by a running job alone.
            await self._store.change(
                parent.id, partial(queue_transitions.complete_cascade, since=parent.cascade_time)
            )
        return not ids

    async def _cancel(self, job_id: str, parent: Job) -> None:
        try:
            change = await self._store.change(
                job_id, lambda job: queue_transitions.cancel_child(job, parent, self._now())
            )
        except NotFound:
            return
        await self._news.tell(change)
