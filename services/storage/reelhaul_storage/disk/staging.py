"""StagedFile: an open write, hashed and written in threads while the next bytes arrive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from reelhaul_storage.digests import Hasher
from reelhaul_storage.disk import fsync

# Handing work to a thread costs as much as hashing about 100 KiB, so it pays only in large batches.
_BATCH = 2 << 20


class StagedFile:
    """Writes to an open file: one batch is written by a thread while the next one is buffered."""

    def __init__(
        self,
        fd: int,
        size: int,
        hasher: Hasher | None,
        threads: Executor,
        check_free_space: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._check_free_space = check_free_space
        self._threads = threads
        self._buffer: list[bytes] = []
        self._buffer_size = 0
        self._pending: asyncio.Future[None] | None = None
        #: Bytes in the file.
        self.size = size
        #: The hasher of all bytes; None if this process did not write all of them.
        self.hasher = hasher

    async def write(self, content: bytes) -> None:
        """Append *content*. Waits while the disk is slower than the sender."""
        self._buffer.append(content)
        self._buffer_size += len(content)
        if self._buffer_size >= _BATCH:
            await self._flush()

    async def persist(self) -> int:
        """Write and sync everything; return the size."""
        await self._flush()
        await self._wait_for_pending()
        self._start(self._sync)
        await self._wait_for_pending()
        return self.size

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call *callback* as soon as no thread uses the file, which may be now."""
        if self._pending is None or self._pending.done():
            callback()
        else:
            call_when_done(self._pending, callback)

    async def _wait_for_pending(self) -> None:
        """Return when no thread uses the file; raises what a thread raised."""
        if self._pending is not None:
            # Shielded: if this task is cancelled, the thread still runs and must stay known.
            await asyncio.shield(self._pending)

    async def _flush(self) -> None:
        await self._wait_for_pending()
        pieces, self._buffer, self._buffer_size = self._buffer, [], 0
        self._start(self._write_pieces, pieces)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._pending = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _sync(self) -> None:
        with fsync.os_errors_as_unavailable():
            os.fsync(self._fd)

    def _write_pieces(self, pieces: list[bytes]) -> None:
        # The reserve keeps the catalog writable, without which nothing could be deleted.
        self._check_free_space()
        with fsync.os_errors_as_unavailable():
            for piece in pieces:
                fsync.write_all(self._fd, piece)
                self.size += len(piece)
                if self.hasher is not None:
                    self.hasher.update(piece)


def call_when_done(future: asyncio.Future[Any], callback: Callable[[], None]) -> None:
    """Call *callback* once *future* is done, with whatever outcome."""

    def on_done(_: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # retrieved, or asyncio would log it as never retrieved
        callback()

    future.add_done_callback(on_done)
