"""Garbage collector: deletes expired artifacts and uploads, and bytes that crashes left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta

from reelhaul_runtime import failpoints
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_storage.errors import DeletionPaused
from reelhaul_storage.ports import BlobStore, Catalog

log = logging.getLogger(__name__)

_BATCH = 200
#: Age from which bytes that the catalog does not know are orphans: a younger blob may belong to a
#: writer that has not committed yet.
_ORPHAN_AGE = timedelta(hours=1)
_ORPHAN_SCAN_SECONDS = 3600


class GarbageCollector:
    """Deletes what has expired. Each method is idempotent and may run on several replicas at once."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        now: Callable[[], datetime],
        grace: timedelta = timedelta(0),
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._now = now
        self._grace = grace

    async def delete_expired(self) -> None:
        """Delete expired artifacts and uploads, and the blobs that lost their last reference."""
        now = self._now()
        while await self._catalog.delete_expired_artifacts(now, _BATCH) == _BATCH:
            await self.delete_doomed_blobs()
        while uploads := await self._catalog.list_expired_uploads(now, _BATCH):
            discarded = [upload for upload in uploads if await _try(self._blobs.discard, upload)]
            await self._catalog.delete_uploads(discarded)
            if len(discarded) < len(uploads):
                break
        await self._catalog.doom_unused_blobs(now - _ORPHAN_AGE, now, _BATCH)
        await self.delete_doomed_blobs()

    async def delete_doomed_blobs(self) -> None:
        """Delete the bytes of blobs that have been doomed for the grace period.

        They are left to a later call while deletion is paused.
        """
        before = self._now() - self._grace
        with suppress(DeletionPaused):
            while doomed := await self._catalog.list_doomed_keys(before, _BATCH):
                deleted = [key for key in doomed if await _try(self._blobs.delete, key)]
                failpoints.hit("storage.collect.after_delete")
                await self._catalog.delete_doomed_keys(deleted)
                if len(deleted) < len(doomed):
                    break

    async def delete_orphans(self) -> None:
        """Delete bytes that the catalog does not know; scans the whole blob store."""
        before = self._now() - _ORPHAN_AGE
        async for ids in _batches(self._blobs.list_staged(before)):
            for upload in ids - await self._catalog.find_unfinished_uploads(ids):
                if await _try(self._blobs.discard, upload):
                    log.info("orphan removed", extra={"upload": upload})
        with suppress(DeletionPaused):
            async for keys in _batches(self._blobs.list_keys(before)):
                for key in keys - await self._catalog.find_known_keys(keys):
                    if await _try(self._blobs.delete, key):
                        log.info("orphan removed", extra={"blob": key})


async def collect_garbage_forever(garbage_collector: GarbageCollector, seconds: float) -> None:
    """Delete what has expired every *seconds*, and orphans every hour, until cancelled.

    Failures are logged; the next run tries again.
    """
    loop, next_scan = asyncio.get_running_loop(), 0.0
    while True:
        try:
            await garbage_collector.delete_expired()
            if loop.time() >= next_scan:
                await garbage_collector.delete_orphans()
                next_scan = loop.time() + _ORPHAN_SCAN_SECONDS
        except Exception as error:
            log.warning("garbage collection failed; it will run again", extra={"cause": repr(error)})
        await asyncio.sleep(seconds)


async def _try(delete: Callable[[str], Awaitable[None]], name: str) -> bool:
    """Delete the bytes of *name*; return whether that worked. A failure is left to the next run."""
    try:
        await delete(name)
    except DeletionPaused:
        raise
    except ReelhaulError as error:
        log.warning("bytes could not be deleted", extra={"blob": name, "cause": error.text})
        return False
    return True


async def _batches(names: AsyncIterator[str]) -> AsyncIterator[set[str]]:
    batch: set[str] = set()
    async for name in names:
        batch.add(name)
        if len(batch) == _BATCH:
            yield batch
            batch = set()
    if batch:
        yield batch
