"""DiskBlobStore: the BlobStore on a disk. ``staging/<upload>`` becomes ``blobs/ab/cd/<sha256>.<nonce>``.

Publishing syncs the file, renames it, then syncs its folder: a crash leaves either nothing or the
whole blob.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Digests
from reelhaul_storage.disk.files import Files, list_files_before, read_pieces
from reelhaul_storage.disk.staging import StagedFile, call_when_done
from reelhaul_storage.model import DiskSpace, PartUrls, SentPart
from reelhaul_storage.read_ahead import ReadAhead

T = TypeVar("T")

_THREADS = 16


class DiskBlobStore:
    """Implements ports.BlobStore with files below one folder. Several processes may share the folder."""

    def __init__(self, files: Files, threads: ThreadPoolExecutor) -> None:
        self._files = files
        self._threads = threads
        self._read_ahead = ReadAhead()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, *, adopt_from: Path, reserve: int = 0, must_exist: bool = False
    ) -> AsyncIterator[DiskBlobStore]:
        """Open the store in *folder*.

        A missing folder is created, unless it *must_exist*: then every call is STORAGE_UNAVAILABLE until
        it is there. Files are adopted from *adopt_from*. Writes are rejected while the disk has fewer
        than *reserve* bytes free.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="disk") as threads:
            files = Files(folder, adopt_from, reserve, must_exist=must_exist)
            try:
                yield cls(files, threads)
            finally:
                files.prehashes.close()

    @property
    def backend(self) -> str:
        return "local"

    @asynccontextmanager
    async def stage(self, upload: str, offset: int, total_size: int = 0) -> AsyncIterator[StagedFile]:
        fd = await self._open(self._files.open_for_append, upload, offset)
        hasher = self._files.take_hasher(upload, offset)
        staged = StagedFile(fd, offset, hasher, self._threads, self._files.check_free_space)

        def close() -> None:
            if staged.hasher is not None and staged.hasher.size == os.fstat(fd).st_size:
                self._files.keep_hasher(upload, staged.hasher)
            os.close(fd)

        try:
            yield staged
        finally:
            # A thread may still be writing to the file.
            staged.call_when_idle(close)

    async def staged_size(self, upload: str) -> int:
        return await self._run(self._files.staged_size, upload)

    async def hash_staged(self, upload: str) -> Digests:
        return await self._run(self._files.hash_staged, upload)

    async def can_adopt(self, path: str) -> bool:
        return await self._run(self._files.can_adopt, path)

    def prehash(self, upload: str, path: str) -> None:
        self._files.prehashes.start(upload, path)

    async def adopt(self, upload: str, path: str) -> None:
        await self._run(self._files.adopt, upload, path)

    async def open_parts(self, upload: str, total_size: int) -> PartUrls | None:
        return None

    async def take_parts(self, upload: str, total_size: int, parts: Sequence[SentPart]) -> None:
        raise FieldInvalid("parts", "this storage has no part_urls: use WriteArtifact")

    async def choose_key(self, upload: str, sha256: str) -> str:
        return f"{sha256[:2]}/{sha256[2:4]}/{sha256}.{secrets.token_hex(6)}"

    async def publish(self, upload: str, key: str, size: int, *, replace: bool = True) -> None:
        await self._run(self._files.publish, upload, key, size)

    async def discard(self, upload: str) -> None:
        await self._run(self._files.discard, upload)

    async def size(self, key: str) -> int | None:
        return await self._run(self._files.size, key)

    async def delete(self, key: str) -> None:
        await self._run(self._files.delete, key)

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        # The next batch is read while the consumer works on the present one.
        fd = await self._open(self._files.open, key)
        with self._read_ahead.reading():
            next_batch = asyncio.ensure_future(self._read_batch(fd, offset, length))
            try:
                while length:
                    pieces = await asyncio.shield(next_batch)
                    size = sum(map(len, pieces))
                    if not size:
                        raise EOFError(key)
                    offset, length = offset + size, length - size
                    next_batch = asyncio.ensure_future(self._read_batch(fd, offset, length))
                    for piece in pieces:
                        yield piece
            finally:
                # Not before the thread is done: a closed descriptor may be reused for another file.
                call_when_done(next_batch, lambda: os.close(fd))

    async def _read_batch(self, fd: int, offset: int, length: int) -> list[bytes]:
        return await self._run(read_pieces, fd, offset, min(length, self._read_ahead.batch))

    async def list_staged(self, before: datetime) -> AsyncIterator[str]:
        for path in await self._run(list_files_before, self._files.staging, before):
            yield path.name.partition(".")[0]

    async def list_keys(self, before: datetime) -> AsyncIterator[str]:
        # One of the 256 folders at a time bounds the memory.
        for folder in await self._run(lambda: sorted(self._files.blobs.iterdir())):
            for path in await self._run(list_files_before, folder, before):
                yield str(path.relative_to(self._files.blobs))

    async def check(self) -> None:
        await self._run(self._files.check)

    async def measure_space(self) -> DiskSpace:
        return await self._run(self._files.measure_space)

    async def _open(self, work: Callable[..., int], *arguments: object) -> int:
        """Return the descriptor that *work* opens; close it if this call is cancelled meanwhile."""
        opening = asyncio.ensure_future(self._run(work, *arguments))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            call_when_done(opening, lambda: None if opening.exception() else os.close(opening.result()))
            raise

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
