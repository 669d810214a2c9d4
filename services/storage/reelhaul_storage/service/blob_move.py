"""BlobMove: copies all blobs to another store while the service runs, and makes it the location."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from reelhaul_storage.digests import Hasher
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Blob, BlobLocation
from reelhaul_storage.ports import BlobStore, LocationStore

log = logging.getLogger(__name__)

_BATCH = 200
# Blobs that are copied at a time.
_CONCURRENCY = 8
_LOST = "the target does not return what was written to it"


@dataclass
class MoveProgress:
    """What was done so far."""

    #: Bytes of the blobs that were handled, and blobs by outcome.
    bytes: int = 0
    copied: int = 0
    skipped: int = 0
    #: Keys of blobs whose bytes are missing or damaged in the source. They are not copied.
    damaged: list[str] = field(default_factory=list)


class BlobMove:
    """Moves the blobs from *source* to *target*, whose URLs are *source_url* and *target_url*.

    It may be interrupted at any point and run again: blobs that are in the target with their size are
    skipped. With *verify* they are read, and replaced if they are damaged.
    """

    def __init__(
        self,
        locations: LocationStore,
        source: BlobStore,
        target: BlobStore,
        *,
        source_url: str,
        target_url: str,
        verify: bool = False,
        report: Callable[[MoveProgress], None] = lambda _: None,
    ) -> None:
        self._locations, self._source, self._target = locations, source, target
        self._source_url, self._target_url = source_url, target_url
        self._verify, self._report = verify, report
        # Keys that need no more work: copied, or not to be had.
        self._done: set[str] = set()
        # Keys of unfinished uploads, of which no store has the bytes yet.
        self._pending: set[str] = set()
        self.progress = MoveProgress()

    async def run(self) -> MoveProgress:
        """Copy everything, switch the service to the target, copy what came meanwhile, end the move.

        Raises STORAGE_UNAVAILABLE if a store does not work, or if somebody else moved the blobs.
        """
        location = await self._locations.get_location()
        if location.previous_url != self._source_url:
            await self._copy_all()
            location = BlobLocation(location.generation + 1, self._target_url, self._source_url)
            await self._locations.set_location(location)
        # From here on, blobs that are new to the catalog are written to the target. Of those that it has,
        # the source may still get the bytes of pending ones; none is committed after the end of the move.
        await self._copy_all()
        end = BlobLocation(location.generation + 1, self._target_url)
        while committed := await self._locations.end_move(end, self._pending):
            for blob in committed:
                await self._move(blob)
        return self.progress

    async def _copy_all(self) -> None:
        """Copy the blobs that need work."""
        slots = asyncio.Semaphore(_CONCURRENCY)
        async for batch in self._batches():
            async with asyncio.TaskGroup() as group:
                for blob in batch:
                    if blob.key not in self._done:
                        await slots.acquire()
                        copying = group.create_task(self._move(blob))
                        copying.add_done_callback(lambda _: slots.release())

    async def _batches(self) -> AsyncIterator[list[Blob]]:
        after = ""
        while batch := await self._locations.list_blobs(after, _BATCH):
            yield batch
            after = batch[-1].key

    async def _move(self, blob: Blob) -> None:
        if await self._is_in_target(blob):
            self.progress.skipped += 1
        elif await self._copy(blob):
            self.progress.copied += 1
        elif not await self._locations.is_referenced(blob.key):
            self._pending.add(blob.key)  # or deleted meanwhile
            return
        elif await self._is_in_target(blob):
            self.progress.skipped += 1  # written by the service meanwhile
        else:
            log.error("blob cannot be copied: it is missing or damaged", extra={"blob": blob.key})
            self.progress.damaged.append(blob.key)
        self._done.add(blob.key)
        self._pending.discard(blob.key)
        self.progress.bytes += blob.content.size
        self._report(self.progress)

    async def _is_in_target(self, blob: Blob) -> bool:
        if await self._target.size(blob.key) != blob.content.size:
            return False
        return not self._verify or await self._is_intact(blob)

    async def _is_intact(self, blob: Blob) -> bool:
        """Return whether the bytes in the target have the right digest."""
        digest = hashlib.sha256()
        try:
            async for piece in self._target.read(blob.key, 0, blob.content.size):
                await asyncio.to_thread(digest.update, piece)
        except (KeyError, EOFError):
            return False
        return digest.hexdigest() == blob.content.sha256

    async def _copy(self, blob: Blob) -> bool:
        """Copy one blob; return False, and leave nothing, if it is missing or damaged in the source."""
        upload, hasher = str(uuid4()), Hasher()
        try:
            async with self._target.stage(upload, 0, blob.content.size) as staged:
                async for piece in self._source.read(blob.key, 0, blob.content.size):
                    await asyncio.to_thread(hasher.update, piece)
                    await staged.write(piece)
                await staged.persist()
            if hasher.digests() != blob.content:
                return False
            await self._target.publish(upload, blob.key, blob.content.size)
            if await self._target.size(blob.key) != blob.content.size:
                raise BackendUnavailable(self._target.backend, _LOST)
        except (KeyError, EOFError):
            return False
        finally:
            await self._target.discard(upload)
        if self._verify and not await self._is_intact(blob):
            raise BackendUnavailable(self._target.backend, _LOST)
        return True

    async def delete_source(self, before: datetime) -> None:
        """Delete what the source has, and was written *before*, except damaged blobs."""
        damaged = set(self.progress.damaged)
        async for key in self._source.list_keys(before):
            if key not in damaged:
                await self._source.delete(key)
        async for upload in self._source.list_staged(before):
            await self._source.discard(upload)


async def is_same_store(one: BlobStore, other: BlobStore) -> bool:
    """Return whether both stores are in one place, whose names may differ: two hosts, or two mounts."""
    upload = str(uuid4())
    try:
        async with one.stage(upload, 0) as staged:
            await staged.write(b"reelhaul")
            await staged.persist()
        return await other.staged_size(upload) != 0
    finally:
        await one.discard(upload)
