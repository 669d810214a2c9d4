"""Artifact expiry sync: tells storage how long to keep the artifacts of ended jobs, until it knows."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_runtime.errors import ReelhaulError, Unavailable
from reelhaul_runtime.logs import Outage

log = logging.getLogger(__name__)

_BATCH = 50
_RETRY_DELAY = timedelta(seconds=10)


class ArtifactExpirySync:
    """Works through the rows whose expiry or deletion storage has not confirmed."""

    def __init__(self, queue: QueueStore, storage: Storage, now: Clock) -> None:
        self._queue = queue
        self._storage = storage
        self._now = now
        self._outage = Outage()

    async def step(self) -> bool:
        """Send storage what is due; return whether more may be due at once."""
        jobs = await self._queue.list_expiry_pending(self._now(), _BATCH)
        try:
            # One alone first: while storage is unavailable, it finds that out for all.
            confirmed = [await self._sync(job) for job in jobs[:1]]
        except Unavailable as error:
            if (level := self._outage.level()) is not None:
                text = "storage is unavailable; artifact expiry is sent later"
                log.log(level, text, extra={"cause": str(error)})
            return False
        if jobs:
            self._outage.end()
        confirmed += await asyncio.gather(*(self._sync_or_postpone(job) for job in jobs[1:]))
        return len(jobs) == _BATCH and all(confirmed)

    async def _sync_or_postpone(self, job: Job) -> bool:
        """Sync *job* where storage answered a moment ago."""
        try:
            return await self._sync(job)
        except Unavailable:
            return False

    async def _sync(self, job: Job) -> bool:
        """Return whether storage confirmed *job*; if not, it is due again later. Raises ``Unavailable``."""
        confirmed = False
        try:
            confirmed = await (self._delete(job) if job.delete_time else self._keep(job))
        except Unavailable:
            raise
        except ReelhaulError as error:
            log.warning("storage did not accept the expiry", extra={"job": job.name, "cause": str(error)})
        finally:
            if not confirmed:
                await self._queue.mark_expiry_confirmed(job.id, self._now() + _RETRY_DELAY)
        return confirmed

    async def _keep(self, job: Job) -> bool:
        expire_time = job.artifacts_expire_time
        assert expire_time is not None
        for artifact in job.artifacts:
            await self._storage.set_expire_time(artifact.name, expire_time)
        await self._queue.mark_expiry_confirmed(job.id, None)
        return True

    async def _delete(self, job: Job) -> bool:
        """Remove what is left of a deleted job once its worker and its own jobs have ended."""
        if not job.state.is_terminal or job.cascade_time is not None:
            return False
        if job.artifacts:
            await self._storage.delete_artifacts([artifact.name for artifact in job.artifacts])
        await self._queue.purge(job.id)
        return True
