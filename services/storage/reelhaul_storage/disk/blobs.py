"""The BlobStore on a disk: ``staging/<upload>`` becomes ``blobs/ab/cd/<sha256>.<writer>``.

What is published was synced, then renamed, then its folder synced: a crash leaves either
nothing or all of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from reelhaul_storage.digests import Digests
from reelhaul_storage.disk.files import Files, list_files_before, read_pieces
from reelhaul_storage.disk.staging import StagedFile, call_when_done

T = TypeVar("T")

_THREADS = 16


class DiskBlobStore:
    """Bytes in files below one folder. Several processes may share it."""

    def __init__(self, files: Files, threads: ThreadPoolExecutor) -> None:
        self._files = files
        self._threads = threads

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, *, adopt_from: Path, reserve: int = 0) -> AsyncIterator[DiskBlobStore]:
        """The store in *folder*, made where it is missing.

        It takes files over from *adopt_from*, and takes nothing new while the disk has
        fewer than *reserve* bytes free.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="disk") as threads:
            files = Files(folder, adopt_from, reserve)
            try:
                yield cls(files, threads)
            finally:
                files.prehashes.close()

    @property
    def backend(self) -> str:
        """``local``."""
        return "local"

    @asynccontextmanager
    async def stage(self, upload: str, offset: int) -> AsyncIterator[StagedFile]:
        """As BlobStore.stage."""
        opened = await self._opened(self._files.open_for_append, upload, offset)
        staged = StagedFile(opened, offset, self._files.take_hasher(upload, offset), self._threads)

        def left() -> None:
            if staged.hasher is not None and staged.hasher.size == os.fstat(opened).st_size:
                self._files.keep_hasher(upload, staged.hasher)
            os.close(opened)

        try:
            yield staged
        finally:
            # A thread may still write: the file must not be closed under it.
            staged.when_settled(left)

    async def staged_size(self, upload: str) -> int:
        """As BlobStore.staged_size."""
        return await self._run(self._files.staged_size, upload)

    async def hash_staged(self, upload: str) -> Digests:
        """As BlobStore.digests; reads only what this process did not write itself."""
        return await self._run(self._files.hash_staged, upload)

    def prehash(self, upload: str, path: str) -> None:
        """As BlobStore.look_ahead: in a thread."""
        self._files.prehashes.start(upload, path)

    async def adopt(self, upload: str, path: str) -> None:
        """As BlobStore.adopt: a link where the shared folder is on the same filesystem."""
        await self._run(self._files.adopt, upload, path)

    async def publish(self, upload: str, key: str, size: int) -> None:
        """As BlobStore.publish."""
        await self._run(self._files.publish, upload, key, size)

    async def discard(self, upload: str) -> None:
        """As BlobStore.discard."""
        await self._run(self._files.discard, upload)

    async def size(self, key: str) -> int | None:
        """As BlobStore.size."""
        return await self._run(self._files.size, key)

    async def delete(self, key: str) -> None:
        """As BlobStore.delete."""
        await self._run(self._files.delete, key)

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """As BlobStore.read; reads ahead while the reader works."""
        opened = await self._opened(self._files.open, key)
        ahead = asyncio.ensure_future(self._run(read_pieces, opened, offset, length))
        try:
            while length:
                pieces = await asyncio.shield(ahead)
                taken = sum(map(len, pieces))
                if not taken:
                    raise EOFError(key)
                offset, length = offset + taken, length - taken
                ahead = asyncio.ensure_future(self._run(read_pieces, opened, offset, length))
                for piece in pieces:
                    yield piece
        finally:
            # Not before: the file's number may be another's the moment it is closed.
            call_when_done(ahead, lambda: os.close(opened))

    async def list_staged(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.staged."""
        for path in await self._run(list_files_before, self._files.staging, before):
            yield path.name.partition(".")[0]

    async def list_keys(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.keys; one folder of 256 at a time."""
        for folder in await self._run(lambda: sorted(self._files.blobs.iterdir())):
            for path in await self._run(list_files_before, folder, before):
                yield str(path.relative_to(self._files.blobs))

    async def check(self) -> None:
        """As BlobStore.check; a full disk fails it too."""
        await self._run(self._files.check)

    async def _opened(self, work: Callable[..., int], *arguments: object) -> int:
        """The file that *work* opens; closed again where we are cancelled meanwhile."""
        opening = asyncio.ensure_future(self._run(work, *arguments))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            call_when_done(opening, lambda: None if opening.exception() else os.close(opening.result()))
            raise

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
