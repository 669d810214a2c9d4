"""The BlobStore on a disk: ``staging/<upload>`` becomes ``blobs/ab/cd/<sha256>.<writer>``.

What is published was synced, then renamed, then its folder synced: a crash leaves either
nothing or all of it.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from reelhaul_storage.digests import Digests, Hasher
from reelhaul_storage.disk import durably
from reelhaul_storage.disk.adoption import adopt
from reelhaul_storage.disk.staging import StagedFile
from reelhaul_storage.failures import BackendUnavailable, OffsetConflict

T = TypeVar("T")

_THREADS = 16
_HASHERS = 1024
_READ_BATCH = 2 << 20
_PIECE = 512 << 10
_BUFFER = 1 << 20


class Disk:
    """Bytes in files below one folder. Several processes may share it."""

    def __init__(self, folder: Path, adopt_from: Path, reserve: int, threads: ThreadPoolExecutor) -> None:
        self._top = folder
        self._staging = folder / "staging"
        self._blobs = folder / "blobs"
        self._adopt_from = adopt_from
        self._reserve = reserve
        self._threads = threads
        # Of writes that ended a moment ago: so that most need not be read again to finish.
        self._hashers: OrderedDict[str, Hasher] = OrderedDict()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, *, adopt_from: Path, reserve: int = 0) -> AsyncIterator[Disk]:
        """The store in *folder*, made where it is missing.

        It takes files over from *adopt_from*, and takes nothing new while the disk has
        fewer than *reserve* bytes free.
        """
        for each in (folder / "staging", folder / "blobs"):
            each.mkdir(parents=True, exist_ok=True, mode=0o750)
        durably.sync_folder(folder)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="disk") as threads:
            yield cls(folder, adopt_from, reserve, threads)

    @property
    def backend(self) -> str:
        """``local``."""
        return "local"

    @asynccontextmanager
    async def stage(self, upload: str, offset: int) -> AsyncIterator[StagedFile]:
        """As BlobStore.stage."""
        opened = await self._run(self._begin, upload, offset)
        staged = StagedFile(opened, offset, self._hasher(upload, offset), self._threads)
        try:
            yield staged
        finally:
            # A thread may still write: the file must not be closed under it.
            with suppress(Exception):
                await staged.settled()
            if staged.hasher is not None and staged.hasher.size == os.fstat(opened).st_size:
                self._keep(upload, staged.hasher)
            os.close(opened)

    async def staged_size(self, upload: str) -> int:
        """As BlobStore.staged_size."""
        return await self._run(self._staged_size, upload)

    async def digests(self, upload: str) -> Digests:
        """As BlobStore.digests; reads only what this process did not write itself."""
        return await self._run(self._digests, upload)

    async def adopt(self, upload: str, path: str) -> None:
        """As BlobStore.adopt: a link where the shared folder is on the same filesystem."""
        await self._run(self._adopt, upload, path)

    async def publish(self, upload: str, key: str, size: int) -> None:
        """As BlobStore.publish."""
        await self._run(self._publish, upload, key, size)

    async def discard(self, upload: str) -> None:
        """As BlobStore.discard."""
        await self._run(self._discard, upload)

    async def size(self, key: str) -> int | None:
        """As BlobStore.size."""
        return await self._run(self._size, key)

    async def delete(self, key: str) -> None:
        """As BlobStore.delete."""
        await self._run(lambda: (self._blobs / key).unlink(missing_ok=True))

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """As BlobStore.read; reads ahead while the reader works."""
        opened = await self._run(self._open, key)
        ahead = asyncio.ensure_future(self._run(_pieces, opened, offset, length))
        try:
            while length:
                pieces = await ahead
                taken = sum(map(len, pieces))
                if not taken:
                    raise EOFError(key)
                offset, length = offset + taken, length - taken
                ahead = asyncio.ensure_future(self._run(_pieces, opened, offset, length))
                for piece in pieces:
                    yield piece
        finally:
            # The thread must be done with the file before its number is given to another.
            await asyncio.wait([ahead])
            ahead.exception()
            os.close(opened)

    async def staged(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.staged."""
        for path in await self._run(_files_before, self._staging, before):
            yield path.name.partition(".")[0]

    async def keys(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.keys; one folder of 256 at a time."""
        for folder in await self._run(lambda: sorted(self._blobs.iterdir())):
            for path in await self._run(_files_before, folder, before):
                yield str(path.relative_to(self._blobs))

    async def check(self) -> None:
        """As BlobStore.check; a full disk fails it too."""
        await self._run(self._check)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _begin(self, upload: str, offset: int) -> int:
        with durably.told(BlockingIOError, FileNotFoundError):
            self._have_room()
            try:
                opened = durably.lock(self._staging / upload, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            except (BlockingIOError, FileNotFoundError) as error:
                raise OffsetConflict("another writer is active", offset) from error
        if (size := os.fstat(opened).st_size) != offset:
            os.close(opened)
            raise OffsetConflict(f"write_offset is {offset}, but {size} bytes are here", size)
        return opened

    def _staged_size(self, upload: str) -> int:
        with durably.told(FileNotFoundError), suppress(FileNotFoundError):
            opened = os.open(self._staging / upload, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(opened).st_size
                os.fsync(opened)
            finally:
                os.close(opened)
            return size
        return 0

    def _digests(self, upload: str) -> Digests:
        with durably.told(FileNotFoundError), suppress(FileNotFoundError):
            with self._alone(upload) as opened:
                hasher = self._hashers.get(upload)
                if hasher is None or hasher.size != os.fstat(opened).st_size:
                    hasher = Hasher()
                    while piece := os.read(opened, _BUFFER):
                        hasher.update(piece)
                    self._keep(upload, hasher)
            return hasher.digests()
        return Hasher().digests()

    def _adopt(self, upload: str, path: str) -> None:
        between = self._staging / f"{upload}.adopted"
        with durably.told():
            self._have_room()
            hasher = adopt(self._adopt_from, path, between)
            self._hashers.pop(upload, None)
            between.replace(self._staging / upload)
        if hasher is not None:
            self._keep(upload, hasher)

    def _publish(self, upload: str, key: str, size: int) -> None:
        source, target = self._staging / upload, self._blobs / key
        with durably.told():
            with self._alone(upload) as opened:
                found = os.fstat(opened).st_size
                if found != size:
                    raise OffsetConflict("the upload was written to while it was finished", found)
                os.fchmod(opened, 0o440)
                os.fsync(opened)
                durably.make_folder(target.parent, self._blobs)
                source.replace(target)
            durably.sync_folder(target.parent)
        self._hashers.pop(upload, None)

    @contextmanager
    def _alone(self, upload: str) -> Iterator[int]:
        """The staged file, opened for reading, while nobody writes to it."""
        try:
            opened = durably.lock(self._staging / upload, os.O_RDONLY)
        except BlockingIOError as error:
            raise OffsetConflict("another writer is active", self._staged_size(upload)) from error
        try:
            yield opened
        finally:
            os.close(opened)

    def _discard(self, upload: str) -> None:
        self._hashers.pop(upload, None)
        with durably.told():
            for name in (upload, f"{upload}.adopted"):
                (self._staging / name).unlink(missing_ok=True)

    def _size(self, key: str) -> int | None:
        with durably.told(FileNotFoundError), suppress(FileNotFoundError):
            return (self._blobs / key).stat().st_size
        return None

    def _open(self, key: str) -> int:
        with durably.told(FileNotFoundError):
            try:
                return os.open(self._blobs / key, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise KeyError(key) from None

    def _check(self) -> None:
        probe = self._staging / f".probe-{os.getpid()}"
        with durably.told():
            self._have_room()
            probe.write_bytes(b"reelhaul")
            if probe.read_bytes() != b"reelhaul":
                raise BackendUnavailable("local", "the disk does not hold what is written to it")
            probe.unlink()

    def _have_room(self) -> None:
        room = os.statvfs(self._staging)
        if room.f_bavail * room.f_frsize < self._reserve:
            raise BackendUnavailable("local", "the disk is full: only the reserve is left")

    def _hasher(self, upload: str, size: int) -> Hasher | None:
        """What goes on hashing *upload* after *size* bytes; None where nobody knows them."""
        kept = self._hashers.pop(upload, None)
        if kept is not None and kept.size == size:
            return kept
        return None if size else Hasher()

    def _keep(self, upload: str, hasher: Hasher) -> None:
        self._hashers[upload] = hasher
        while len(self._hashers) > _HASHERS:
            with suppress(KeyError):
                self._hashers.popitem(last=False)


def _pieces(opened: int, offset: int, length: int) -> list[bytes]:
    end = offset + min(length, _READ_BATCH)
    with durably.told():
        return [os.pread(opened, min(_PIECE, end - at), at) for at in range(offset, end, _PIECE)]


def _files_before(folder: Path, before: datetime) -> list[Path]:
    """Files below *folder* that were last written *before*; hidden ones are not ours to tell of."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and path.name[0] != "." and path.stat().st_mtime < before.timestamp():
                found.append(path)
    return found
