"""The confirmer: tells storage what a job's end means for its artifacts, until storage knows."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_runtime.errors import ReelhaulError, Unavailable

log = logging.getLogger(__name__)

_BATCH = 50
_AGAIN = timedelta(seconds=10)


class ArtifactExpirySync:
    """Follows the rows that say: storage has to be told."""

    def __init__(self, queue: QueueStore, storage: Storage, now: Clock) -> None:
        self._queue = queue
        self._storage = storage
        self._now = now

    async def step(self) -> bool:
        """Tell storage of what is due. Whether there may be more to do at once."""
        due = await self._queue.list_expiry_pending(self._now(), _BATCH)
        try:
            # One goes ahead: while storage is away, it finds that out for all.
            told = [await self._tell(job) for job in due[:1]]
        except Unavailable as error:
            log.warning("storage is away; it is told later", extra={"cause": str(error)})
            return False
        told += await asyncio.gather(*(self._tell_on(job) for job in due[1:]))
        return len(due) == _BATCH and all(told)

    async def _tell_on(self, job: Job) -> bool:
        """As ``_tell``, where storage answered a moment ago."""
        try:
            return await self._tell(job)
        except Unavailable:
            return False

    async def _tell(self, job: Job) -> bool:
        """Whether storage knows now; if not, it is told again later. ``Unavailable`` while it is away."""
        done = False
        try:
            done = await (self._deleted(job) if job.delete_time else self._kept(job))
        except Unavailable:
            raise
        except ReelhaulError as error:
            log.warning("storage was not told", extra={"job": job.name, "cause": str(error)})
        finally:
            if not done:
                await self._queue.mark_expiry_confirmed(job.id, self._now() + _AGAIN)
        return done

    async def _kept(self, job: Job) -> bool:
        assert job.expire_time is not None
        for artifact in job.artifacts:
            await self._storage.set_expire_time(artifact.name, job.expire_time)
        await self._queue.mark_expiry_confirmed(job.id, None)
        return True

    async def _deleted(self, job: Job) -> bool:
        """Remove what is left of a deleted job, when its worker and its own jobs have let go."""
        if not job.state.is_terminal or job.cascade_time is not None:
            return False
        if job.artifacts:
            await self._storage.delete_artifacts([artifact.name for artifact in job.artifacts])
        await self._queue.purge(job.id)
        return True
