"""Staging: an open write, hashed and written in threads while the next bytes arrive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk import fsync

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
        await self._settled()
        self._begin(self._sync)
        await self._settled()
        return self.size

    def when_settled(self, left: Callable[[], None]) -> None:
        """Call *left* as soon as no thread touches the file any more: now, or soon."""
        if self._going is None or self._going.done():
            left()
        else:
            call_when_done(self._going, left)

    async def _settled(self) -> None:
        """Return when no thread touches the file; raises what failed there."""
        if self._going is not None:
            # Cancelling us must not make us forget that a thread is at it.
            await asyncio.shield(self._going)

    async def _go(self) -> None:
        await self._settled()
        pieces, self._gathered, self._gathered_size = self._gathered, [], 0
        self._begin(self._put, pieces)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._going = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _sync(self) -> None:
        with fsync.os_errors_as_unavailable():
            os.fsync(self._opened)

    def _put(self, pieces: list[bytes]) -> None:
        with fsync.os_errors_as_unavailable():
            for piece in pieces:
                fsync.write_all(self._opened, piece)
                self.size += len(piece)
                if self.hasher is not None:
                    self.hasher.update(piece)


def call_when_done(work: asyncio.Future[Any], left: Callable[[], None]) -> None:
    """Call *left* once *work* has ended, however it did."""

    def ended(_: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            work.exception()  # looked at, since nobody else will
        left()

    work.add_done_callback(ended)
