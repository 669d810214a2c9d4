"""MovableBlobStore: the BlobStore at the location that the catalog records, also while that changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TypeVar

from reelhaul_runtime.settings import InvalidSetting
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict
from reelhaul_storage.model import BlobLocation, DiskSpace, PartUrls, SentPart
from reelhaul_storage.ports import BlobStore, LocationStore, StagedWriter

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Opens the store at a URL.
OpenStore = Callable[[str], AbstractAsyncContextManager[BlobStore]]

#: Seconds within which another location is used.
REFRESH_SECONDS = 1.0
# Seconds until it is read although nothing seems to have changed.
_LONGEST_SECONDS = 10.0


class MovableBlobStore:
    """Implements ports.BlobStore: writes to the present location, and reads from the previous one too.

    What was staged at the previous location is not found: its writers send it again.
    """

    def __init__(
        self, locations: LocationStore, open_store: OpenStore, default_url: str, stack: AsyncExitStack
    ) -> None:
        self._locations, self._open_store, self._default_url = locations, open_store, default_url
        # Stores stay open until the end: reads of the one before may still run.
        self._stack = stack
        self._by_url: dict[str, BlobStore] = {}
        self._refreshing = asyncio.Lock()
        self._location = BlobLocation(generation=-1)
        self._present: BlobStore
        self._previous: BlobStore | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, locations: LocationStore, open_store: OpenStore, default_url: str
    ) -> AsyncIterator[MovableBlobStore]:
        """Open the store at the recorded location, or at *default_url* if none is recorded."""
        async with AsyncExitStack() as stack:
            blobs = cls(locations, open_store, default_url, stack)
            await blobs._use(await locations.get_location())
            yield blobs

    @property
    def generation(self) -> int:
        """The generation of the location in use."""
        return self._location.generation

    async def refresh(self) -> bool:
        """Use the location that is recorded now; return whether it is another one.

        Raises STORAGE_UNAVAILABLE, and keeps the location in use, if the new one does not work.
        """
        async with self._refreshing:
            location = await self._locations.get_location()
            if location.generation == self._location.generation:
                return False
            try:
                await (await self._open(location.url)).check()
                await self._use(location)
            except InvalidSetting as error:
                raise BackendUnavailable("", "storage cannot use the location of the artifacts") from error
        log.info("blobs are at another location", extra={"generation": location.generation})
        return True

    async def refresh_forever(self, seconds: float = REFRESH_SECONDS) -> None:
        """Use the location that is recorded, until cancelled; look for a change every *seconds*."""
        seen, due = None, 0.0
        while True:
            await asyncio.sleep(seconds)
            version = self._locations.version
            if version is not None and version == seen and time.monotonic() < due:
                continue
            # Of before the read: a change that follows it is another one.
            seen, due = version, time.monotonic() + _LONGEST_SECONDS
            try:
                await self.refresh()
            except Exception as error:
                cause = repr(error.__cause__ or error)
                log.warning("the location of the blobs cannot be used", extra={"cause": cause})

    @property
    def backend(self) -> str:
        return self._present.backend

    def stage(
        self, upload: str, offset: int, total_size: int = 0
    ) -> AbstractAsyncContextManager[StagedWriter]:
        return self._present.stage(upload, offset, total_size)

    async def staged_size(self, upload: str) -> int:
        return await self._present.staged_size(upload)

    async def hash_staged(self, upload: str) -> Digests:
        return await self._present.hash_staged(upload)

    async def can_adopt(self, path: str) -> bool:
        return await self._present.can_adopt(path)

    def prehash(self, upload: str, path: str) -> None:
        self._present.prehash(upload, path)

    async def adopt(self, upload: str, path: str) -> None:
        self._refuse_way_of_another_store("local")
        await self._present.adopt(upload, path)

    async def choose_key(self, upload: str, sha256: str) -> str:
        return await self._present.choose_key(upload, sha256)

    async def open_parts(self, upload: str, total_size: int) -> PartUrls | None:
        return await self._present.open_parts(upload, total_size)

    async def take_parts(self, upload: str, total_size: int, parts: Sequence[SentPart]) -> None:
        self._refuse_way_of_another_store("s3")
        await self._present.take_parts(upload, total_size, parts)

    async def publish(self, upload: str, key: str, size: int, *, replace: bool = True) -> None:
        await self._present.publish(upload, key, size, replace=replace)

    async def discard(self, upload: str) -> None:
        for store in self._stores():
            await store.discard(upload)

    async def size(self, key: str) -> int | None:
        generation = self.generation
        for store in self._stores():
            if (size := await store.size(key)) is not None:
                return size
        return await self.size(key) if await self._has_moved_since(generation) else None

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        generation = self.generation
        for store in self._stores():
            try:
                async for piece in store.read(key, offset, length):
                    # A blob may be deleted at the previous location while it is read there.
                    offset, length = offset + len(piece), length - len(piece)
                    yield piece
            except KeyError:
                continue
            return
        if not await self._has_moved_since(generation):
            raise KeyError(key)
        async for piece in self.read(key, offset, length):
            yield piece

    async def delete(self, key: str) -> None:
        for store in self._stores():
            await store.delete(key)

    def list_staged(self, before: datetime) -> AsyncIterator[str]:
        return self._present.list_staged(before)

    def list_keys(self, before: datetime) -> AsyncIterator[str]:
        return self._present.list_keys(before)

    async def check(self) -> None:
        await self._present.check()

    async def measure_space(self) -> DiskSpace | None:
        return await self._present.measure_space()

    def _refuse_way_of_another_store(self, backend: str) -> None:
        """Raise WRITE_OFFSET_CONFLICT if only a store of *backend* takes bytes so, and they were moved.

        The client has learned before the move how it may send them; it must ask again.
        """
        if self.generation and self.backend != backend:
            raise OffsetConflict("the artifacts were moved: create the upload again and send its bytes", 0)

    async def _has_moved_since(self, generation: int) -> bool:
        """Return whether the location has another *generation*; another replica may have switched first."""
        return await self.refresh() or self.generation != generation

    def _stores(self) -> list[BlobStore]:
        return [self._present] if self._previous is None else [self._present, self._previous]

    async def _use(self, location: BlobLocation) -> None:
        present = await self._open(location.url)
        previous = await self._open(location.previous_url) if location.previous_url else None
        self._location, self._present, self._previous = location, present, previous

    async def _open(self, url: str) -> BlobStore:
        url = url or self._default_url
        if url not in self._by_url:
            self._by_url[url] = await self._stack.enter_async_context(self._open_store(url))
        return self._by_url[url]
