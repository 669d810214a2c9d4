"""Staging: an open write, hashed and written in threads while the next bytes arrive."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Executor

from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk import durably

# A hop to a thread costs as much as some 100 KiB of hashing: so go rarely, with much.
_BATCH = 2 << 20


class StagedFile:
    """A write to an open file: one batch is on its way while the next one gathers."""

    def __init__(self, opened: int, size: int, hasher: Hasher | None, threads: Executor) -> None:
        self._opened = opened
        self._threads = threads
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._going: asyncio.Future[None] | None = None
        #: Bytes in the file.
        self.size = size
        #: What hashed all of them, or None where some were written before our time.
        self.hasher = hasher

    async def write(self, content: bytes) -> None:
        """Append *content*. Waits while the disk is slower than the sender."""
        self._gathered.append(content)
        self._gathered_size += len(content)
        if self._gathered_size >= _BATCH:
            await self._go()

    async def persist(self) -> int:
        """Return the size once all is safe on disk."""
        await self._go()
        await self.settled()
        with durably.told():
            await asyncio.get_running_loop().run_in_executor(self._threads, os.fsync, self._opened)
        return self.size

    async def settled(self) -> None:
        """Return when no thread touches the file any more; raises what failed there."""
        if self._going is not None:
            going, self._going = self._going, None
            await asyncio.shield(going)

    async def _go(self) -> None:
        await self.settled()
        pieces, self._gathered, self._gathered_size = self._gathered, [], 0
        loop = asyncio.get_running_loop()
        self._going = loop.run_in_executor(self._threads, self._put, pieces)

    def _put(self, pieces: list[bytes]) -> None:
        with durably.told():
            for piece in pieces:
                durably.write_all(self._opened, piece)
                self.size += len(piece)
                if self.hasher is not None:
                    self.hasher.update(piece)
