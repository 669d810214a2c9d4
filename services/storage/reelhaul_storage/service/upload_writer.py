"""Intake: takes the chunks of one write, each only where it belongs and as it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import crc32c
from reelhaul_storage.errors import ChecksumMismatch, OffsetConflict, TooLarge
from reelhaul_storage.model import Chunk, ExpectedChecksums, Upload
from reelhaul_storage.ports import BlobStore, StagedWriter

#: Seconds that a writer may say nothing: another one waits for the upload.
_IDLE_SECONDS = 60


async def write_chunks(
    blobs: BlobStore, upload: Upload, chunks: AsyncIterator[Chunk], max_bytes: int
) -> tuple[int, ExpectedChecksums | None]:
    """Stage *chunks*: the bytes now safe, and what to finish with, where the last one says so.

    Where a chunk is refused, those before it are safe all the same.
    """
    first = await _next(chunks)
    if first is None:
        raise FieldInvalid("content", "nothing was sent")
    async with blobs.stage(upload.id, first.offset) as staged:
        size = first.offset
        chunk: Chunk | None = first
        while chunk is not None:
            check_size(size + len(chunk.content), max_bytes)
            await _belong(upload, staged, chunk, size)
            await staged.write(chunk.content)
            size += len(chunk.content)
            if chunk.finish is not None:
                return await staged.persist(), chunk.finish
            chunk = await _next(chunks)
        return await staged.persist(), None


def check_size(size: int, max_bytes: int) -> None:
    """Raise MEDIA_TOO_LARGE where *size* is more than one artifact may have."""
    if size > max_bytes:
        raise TooLarge(size, max_bytes)


async def _belong(upload: Upload, staged: StagedWriter, chunk: Chunk, size: int) -> None:
    """Raise unless *chunk* goes on at *size*, whole, and not past the end that was announced."""
    if upload.total_size and size + len(chunk.content) > upload.total_size:
        raise FieldInvalid("content", f"leads past the {upload.total_size} bytes that were announced")
    if chunk.offset != size:
        raise OffsetConflict(f"write_offset is {chunk.offset}, not {size}", await staged.persist())
    if chunk.crc32c is not None and chunk.crc32c != crc32c(chunk.content):
        raise ChecksumMismatch(f"crc32c does not hold at {size}", await staged.persist())


async def _next(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    async with asyncio.timeout(_IDLE_SECONDS):
        return await anext(chunks, None)
