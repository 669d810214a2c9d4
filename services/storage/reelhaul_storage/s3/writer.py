"""PartWriter: an open write, hashed and sent to S3 in parts by threads while the next bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from reelhaul_storage.digests import Hasher
from reelhaul_storage.errors import OffsetConflict, TooLarge
from reelhaul_storage.s3.bucket import MultipartUpload, Part
from reelhaul_storage.s3.staging import MAX_PARTS, Staged, Staging, choose_part_size

# Parts of one writer that are on the way: with the one that is filled, they are its memory.
_PARALLEL = 3


class PartWriter:
    """Implements ports.StagedWriter. *tail* is the content of what is staged after the parts."""

    def __init__(
        self, staging: Staging, staged: Staged, run: Callable[..., Any], tail: bytes, total_size: int
    ) -> None:
        self._staging, self._staged, self._run, self._total_size = staging, staged, run, total_size
        self._buffer = bytearray(tail)
        self._hasher = staged.hashers.get(staged.size)
        # Bytes at the beginning of the buffer that are in the hasher already.
        self._hashed = len(tail)
        self._next_number = len(staged.parts) + 1
        self._part_size = choose_part_size(self._next_number, total_size)
        self._arrived: dict[int, Part] = {}
        self._sending: list[asyncio.Task[None]] = []
        self._hashing: asyncio.Task[None] | None = None

    async def write(self, content: bytes) -> None:
        """Append *content*. Waits while S3 is slower than the sender."""
        if content and self._staged.sealed_key:
            raise OffsetConflict("the upload is complete", self._staged.size)
        rest = memoryview(content)
        while rest:
            room = max(0, self._part_size - len(self._buffer))
            self._buffer += rest[:room]
            rest = rest[room:]
            if len(self._buffer) >= self._part_size:
                await self._flush()

    async def persist(self) -> int:
        """Send everything; return the size once it is stored."""
        await self._wait_for(self._pending())
        tail_size = self._staged.tail.size if self._staged.tail else 0
        if len(self._buffer) > tail_size:
            await self._run(self._write_tail, bytes(self._buffer))
        return self._staged.size

    async def wait_until_idle(self) -> None:
        """Return when no thread works for this writer; what they raised does not matter any more."""
        await asyncio.gather(*self._pending(), return_exceptions=True)

    def _pending(self) -> list[asyncio.Task[None]]:
        return self._sending if self._hashing is None else [*self._sending, self._hashing]

    async def _wait_for(self, tasks: list[asyncio.Task[None]]) -> None:
        """Return when *tasks* are done; raise what one of them raised."""
        if tasks:
            # Shielded: if the writer is cancelled, the threads still run and must stay known.
            await asyncio.shield(asyncio.gather(*tasks))

    async def _flush(self) -> None:
        """Start to hash and send the buffer, which has the size of a part."""
        number, content = self._next_number, bytes(self._buffer)
        if number >= MAX_PARTS:
            raise TooLarge(self._staged.size, self._staged.parts_size)
        if self._hashing is not None:
            await self._wait_for([self._hashing])
        while len(self._sending) >= _PARALLEL:
            await self._wait_for([self._sending[0]])
            self._sending = [task for task in self._sending if not task.done() or task.exception()]
        multipart = await self._run(self._staging.open_multipart, self._staged)
        self._hashing = asyncio.create_task(self._hash(content, self._hashed))
        self._sending.append(asyncio.create_task(self._send(multipart, number, content)))
        self._buffer, self._hashed = bytearray(), 0
        self._next_number += 1
        self._part_size = choose_part_size(self._next_number, self._total_size)

    async def _hash(self, content: bytes, hashed: int) -> None:
        if self._hasher is not None:
            self._hasher = await self._run(_extend, self._hasher, content[hashed:])
            self._staged.hashers[self._hasher.size] = self._hasher

    async def _send(self, multipart: MultipartUpload, number: int, content: bytes) -> None:
        self._arrived[number] = await self._run(self._staging.put_part, multipart, number, content)
        while part := self._arrived.pop(len(self._staged.parts) + 1, None):
            self._staged.add_part(part)

    def _write_tail(self, content: bytes) -> None:
        hasher = None if self._hasher is None else _extend(self._hasher, content[self._hashed :])
        self._staging.write_tail(self._staged, content)
        if hasher is not None:
            self._hasher, self._hashed = hasher, len(content)
            self._staged.hashers[hasher.size] = hasher


def _extend(hasher: Hasher, content: bytes) -> Hasher:
    """Return the hasher of what *hasher* has and *content* after it."""
    extended = hasher.copy()
    extended.update(content)
    return extended
