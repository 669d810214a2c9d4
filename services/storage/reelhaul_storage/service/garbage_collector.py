"""The sweep: takes away what has expired, and what crashes left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from reelhaul_storage.ports import BlobStore, Catalog

log = logging.getLogger(__name__)

_STEP = 200
#: How long bytes may lie unknown to the catalogue: a writer may be between the two.
_ORPHAN_AGE = timedelta(hours=1)


class GarbageCollector:
    """Each method is one step that may be repeated, and run beside itself on other replicas."""

    def __init__(self, catalogue: Catalog, blobs: BlobStore, now: Callable[[], datetime]) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._now = now

    async def delete_expired(self) -> None:
        """Take away artifacts and uploads that are past their time, and blobs left by them."""
        now = self._now()
        while await self._catalogue.delete_expired_artifacts(now, _STEP) == _STEP:
            await self.delete_doomed_blobs()
        while gone := await self._catalogue.list_expired_uploads(now, _STEP):
            for upload in gone:
                await self._blobs.discard(upload)
            await self._catalogue.delete_uploads(gone)
        await self._catalogue.doom_unused_blobs(now - _ORPHAN_AGE, now, _STEP)
        await self.delete_doomed_blobs()

    async def delete_doomed_blobs(self) -> None:
        """Delete the bytes of doomed blobs."""
        while doomed := await self._catalogue.list_doomed_keys(_STEP):
            for key in doomed:
                await self._blobs.delete(key)
            await self._catalogue.delete_doomed_keys(doomed)

    async def delete_orphans(self) -> None:
        """Delete bytes that the catalogue does not know: walks through all there are."""
        before = self._now() - _ORPHAN_AGE
        async for ids in _in_steps(self._blobs.list_staged(before)):
            for upload in ids - await self._catalogue.find_unfinished_uploads(ids):
                log.info("orphan removed", extra={"upload": upload})
                await self._blobs.discard(upload)
        async for keys in _in_steps(self._blobs.list_keys(before)):
            for key in keys - await self._catalogue.find_known_keys(keys):
                log.info("orphan removed", extra={"key": key})
                await self._blobs.delete(key)


async def collect_garbage_forever(sweep: GarbageCollector, seconds: float) -> None:
    """Sweep every *seconds*, the whole store every hour, until cancelled. Failures are told and outlived."""
    orphans_due = 0.0
    while True:
        try:
            await sweep.delete_expired()
            if asyncio.get_running_loop().time() >= orphans_due:
                await sweep.delete_orphans()
                orphans_due = asyncio.get_running_loop().time() + 3600
        except Exception as error:
            log.warning("sweep broke off; it comes again", extra={"cause": repr(error)})
        await asyncio.sleep(seconds)


async def _in_steps(each: AsyncIterator[str]) -> AsyncIterator[set[str]]:
    step: set[str] = set()
    async for one in each:
        step.add(one)
        if len(step) == _STEP:
            yield step
            step = set()
    if step:
        yield step
