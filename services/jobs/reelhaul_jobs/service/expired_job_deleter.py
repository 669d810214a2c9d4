"""The retirer: takes ended jobs away when their time has passed; their artifacts follow."""

from __future__ import annotations

import asyncio
from functools import partial

from reelhaul_jobs.model import queue_transitions
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_runtime.errors import NotFound

_BATCH = 100


class ExpiredJobDeleter:
    """Deletes what has expired, as its user could: the confirmer then removes artifacts and rows."""

    def __init__(self, store: JobStore, queue: QueueStore, now: Clock) -> None:
        self._store = store
        self._queue = queue
        self._now = now

    async def step(self) -> bool:
        """Delete some of what has expired. Whether there may be more to do at once."""
        now = self._now()
        ids = await self._queue.list_expired(now, _BATCH)
        rule = partial(queue_transitions.expire, now=now)
        found = await asyncio.gather(*(self._store.change(i, rule) for i in ids), return_exceptions=True)
        for failure in found:
            if isinstance(failure, BaseException) and not isinstance(failure, NotFound):
                raise failure
        return len(ids) == _BATCH
