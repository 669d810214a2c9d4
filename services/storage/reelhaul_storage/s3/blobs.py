"""S3BlobStore: the BlobStore on a bucket. What is staged of an upload becomes ``blobs/<upload>.<nonce>``."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import BotoCoreError

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable, OffsetConflict
from reelhaul_storage.model import PartUrls, SentPart
from reelhaul_storage.read_ahead import ReadAhead
from reelhaul_storage.s3.bucket import Bucket, StagedChanged, create_client
from reelhaul_storage.s3.checks import build_check_key, check_access
from reelhaul_storage.s3.location import Location
from reelhaul_storage.s3.reader import RangeReader
from reelhaul_storage.s3.staging import STAGING, Staged, Staging, build_key
from reelhaul_storage.s3.writer import PartWriter

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

_THREADS = 32
# Threads that hash and publish more bytes than these, so that reads and checks need not wait for them.
_LARGE, _LARGE_THREADS = 64 << 20, 8
_MAX_STAGED = 1024


class S3BlobStore:
    """Implements ports.BlobStore with objects below the prefix of a bucket."""

    def __init__(
        self, staging: Staging, threads: ThreadPoolExecutor, large_threads: ThreadPoolExecutor
    ) -> None:
        self._staging = staging
        self._threads, self._large_threads = threads, large_threads
        # What is staged of recent writes, with its hashers: most uploads need not be read to be finished.
        self._staged: OrderedDict[str, Staged] = OrderedDict()
        self._active: set[str] = set()
        self._finishing: set[str] = set()
        self._read_ahead = ReadAhead()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, location: Location, setting: str = "REELHAUL_STORAGE_URL"
    ) -> AsyncIterator[S3BlobStore]:
        """Open the store at *location*, the value of *setting*.

        Raises InvalidSetting for what an operator must change. A server that does not answer now may do so
        later.
        """
        client = await asyncio.to_thread(_create_client, location, setting)
        with (
            ThreadPoolExecutor(_THREADS, thread_name_prefix="s3") as threads,
            ThreadPoolExecutor(_LARGE_THREADS, thread_name_prefix="s3-large") as large_threads,
        ):
            bucket = Bucket(location, client)
            try:
                await asyncio.to_thread(check_access, bucket, build_check_key(STAGING), setting)
                yield cls(Staging(bucket), threads, large_threads)
            finally:
                client.close()

    @property
    def backend(self) -> str:
        return "s3"

    @asynccontextmanager
    async def stage(self, upload: str, offset: int, total_size: int = 0) -> AsyncIterator[PartWriter]:
        self._lock(upload, offset)
        writer: PartWriter | None = None
        try:
            staged = await self._load(upload)
            if staged.size != offset:
                raise OffsetConflict(
                    f"write_offset is {offset}, but {staged.size} bytes are staged", staged.size
                )
            with self._changes_as_conflict(upload):
                tail = await self._run(self._staging.read_tail, staged)
                writer = PartWriter(self._staging, staged, self._run, tail, total_size)
                yield writer
        finally:
            await self._unlock_when_idle(upload, writer)

    async def staged_size(self, upload: str) -> int:
        if upload in self._staged:
            return self._staged[upload].size
        return (await self._run(self._staging.load, upload)).size

    async def hash_staged(self, upload: str) -> Digests:
        async def hash_staged() -> Digests:
            staged = await self._load(upload)
            return (await self._run_sized(staged.size, self._staging.hash, staged)).digests()

        return await self._run_locked(upload, hash_staged)

    async def can_adopt(self, path: str) -> bool:
        return False

    def prehash(self, upload: str, path: str) -> None:
        return

    async def adopt(self, upload: str, path: str) -> None:
        raise FieldInvalid("adopt_path", "storage has no shared folder: send the bytes")

    async def open_parts(self, upload: str, total_size: int) -> PartUrls | None:
        return await self._run(self._staging.open_parts, upload, total_size)

    async def take_parts(self, upload: str, total_size: int, parts: Sequence[SentPart]) -> None:
        async def take_parts() -> None:
            self._staged[upload] = await self._run(self._staging.take_parts, upload, total_size, parts)

        await self._run_locked(upload, take_parts)

    async def choose_key(self, upload: str, sha256: str) -> str:
        return (await self._load(upload)).key or build_key(upload)

    async def publish(self, upload: str, key: str, size: int, *, replace: bool = True) -> None:
        async def publish() -> None:
            staged = await self._load(upload)
            await self._run_sized(size, self._staging.publish, staged, key, size, replace)
            self._staged.pop(upload, None)

        await self._run_locked(upload, publish)

    async def discard(self, upload: str) -> None:
        self._staged.pop(upload, None)
        await self._run(self._staging.discard, upload)

    async def size(self, key: str) -> int | None:
        return await self._run(self._staging.blob_size, key)

    async def delete(self, key: str) -> None:
        await self._run(self._staging.delete_blob, key)

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        # The next batch is read while the consumer works on the present one.
        reader = await self._run(self._staging.read_blob, key, offset, length)
        with self._read_ahead.reading():
            next_batch = asyncio.ensure_future(self._run(reader.read_batch, self._read_ahead.batch))
            try:
                while length:
                    pieces = await asyncio.shield(next_batch)
                    if not pieces:
                        raise EOFError(key)
                    length -= sum(map(len, pieces))
                    next_batch = asyncio.ensure_future(self._run(reader.read_batch, self._read_ahead.batch))
                    for piece in pieces:
                        yield piece
            finally:
                # Not before the thread is done with it.
                next_batch.add_done_callback(lambda done: _close_after(done, reader))

    async def list_staged(self, before: datetime) -> AsyncIterator[str]:
        async for page in self._pages(self._staging.list_staged(before)):
            for upload in page:
                yield upload

    async def list_keys(self, before: datetime) -> AsyncIterator[str]:
        async for page in self._pages(self._staging.list_blobs(before)):
            for key in page:
                yield key

    async def check(self) -> None:
        try:
            await self._run(self._staging.check)
        except StagedChanged:
            raise BackendUnavailable("s3", "S3 does not return what was written to it") from None

    async def measure_space(self) -> None:
        return None

    async def _load(self, upload: str) -> Staged:
        """Return what is staged of *upload*, and keep it for the next call."""
        if upload not in self._staged:
            staged = await self._run(self._staging.load, upload)
            self._staged.setdefault(upload, staged)
        self._staged.move_to_end(upload)
        while len(self._staged) > _MAX_STAGED:
            self._staged.popitem(last=False)
        return self._staged[upload]

    def _lock(self, upload: str, persisted: int) -> None:
        if upload in self._finishing:
            raise BackendUnavailable("s3", "storage still finishes the upload")
        if upload in self._active:
            raise OffsetConflict("another writer is active", persisted)
        self._active.add(upload)

    async def _run_locked(self, upload: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return what *work* returns; it runs to its end, and *upload* is locked until then.

        A caller that does not wait for it calls again: without the lock both would do the same, maybe for
        hours. Raises STORAGE_UNAVAILABLE meanwhile.
        """

        async def run() -> T:
            try:
                with self._changes_as_conflict(upload):
                    return await work()
            finally:
                self._active.discard(upload)
                self._finishing.discard(upload)

        staged = self._staged.get(upload)
        self._lock(upload, staged.size if staged else 0)
        self._finishing.add(upload)
        running = asyncio.create_task(run())
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(running)

    async def _unlock_when_idle(self, upload: str, writer: PartWriter | None) -> None:
        """Unlock *upload* once *writer* sends nothing: a late part would replace one of the next writer."""
        if writer is None:
            self._active.discard(upload)
            return
        idle = asyncio.ensure_future(writer.wait_until_idle())
        try:
            await asyncio.shield(idle)
        finally:
            if idle.done():
                self._active.discard(upload)
            else:
                idle.add_done_callback(lambda _: self._active.discard(upload))

    @contextmanager
    def _changes_as_conflict(self, upload: str) -> Iterator[None]:
        """Raise WRITE_OFFSET_CONFLICT for what another process changed, which is loaded again next time."""
        try:
            yield
        except StagedChanged as error:
            self._staged.pop(upload, None)
            raise OffsetConflict("another writer changed the upload: ask for its size again", 0) from error

    async def _pages(self, pages: Iterator[list[str]]) -> AsyncIterator[list[str]]:
        while (page := await self._run(next, pages, None)) is not None:
            yield page

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _run_sized(self, size: int, work: Callable[..., T], *arguments: object) -> T:
        """Run what may take as long as copying *size* bytes."""
        threads = self._large_threads if size > _LARGE else self._threads
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


def _create_client(location: Location, setting: str) -> S3Client:
    try:
        return create_client(location)
    except (BotoCoreError, ValueError) as error:
        raise InvalidSetting(f"{setting}: boto3 cannot use it ({type(error).__name__})") from error


def _close_after(batch: asyncio.Future[list[bytes]], reader: RangeReader) -> None:
    if not batch.cancelled():
        batch.exception()  # retrieved, or asyncio would log it as never retrieved
    reader.close()
