"""MeteredBlobStore: a BlobStore whose operations are counted and timed, whatever its backend."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from typing import cast

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tracing import spans
from reelhaul_storage import metrics
from reelhaul_storage.digests import Digests
from reelhaul_storage.model import DiskSpace, PartUrls, SentPart
from reelhaul_storage.ports import BlobStore, StagedWriter


class MeteredBlobStore:
    """Implements ports.BlobStore by *inner*, and counts what passes through it."""

    def __init__(self, inner: BlobStore, clock: Callable[[], float] = time.perf_counter) -> None:
        self._inner, self._clock = inner, clock

    @property
    def backend(self) -> str:
        return self._inner.backend

    @asynccontextmanager
    async def stage(self, upload: str, offset: int, total_size: int = 0) -> AsyncIterator[StagedWriter]:
        # Its duration is that of the client; what takes the backend time is to persist the bytes.
        async with self._inner.stage(upload, offset, total_size) as writer:
            yield _MeteredWriter(writer, self._measuring)

    async def staged_size(self, upload: str) -> int:
        with self._measuring("staged_size"):
            return await self._inner.staged_size(upload)

    async def hash_staged(self, upload: str) -> Digests:
        with self._measuring("hash_staged"):
            return await self._inner.hash_staged(upload)

    async def can_adopt(self, path: str) -> bool:
        return await self._inner.can_adopt(path)

    def prehash(self, upload: str, path: str) -> None:
        self._inner.prehash(upload, path)

    async def adopt(self, upload: str, path: str) -> None:
        with self._measuring("adopt"):
            await self._inner.adopt(upload, path)

    async def open_parts(self, upload: str, total_size: int) -> PartUrls | None:
        with self._measuring("open_parts"):
            return await self._inner.open_parts(upload, total_size)

    async def take_parts(self, upload: str, total_size: int, parts: Sequence[SentPart]) -> None:
        with self._measuring("take_parts"):
            await self._inner.take_parts(upload, total_size, parts)

    async def choose_key(self, upload: str, sha256: str) -> str:
        return await self._inner.choose_key(upload, sha256)

    async def publish(self, upload: str, key: str, size: int, *, replace: bool = True) -> None:
        with self._measuring("publish"):
            await self._inner.publish(upload, key, size, replace=replace)
        if replace:
            metrics.WRITTEN.inc(size)

    async def discard(self, upload: str) -> None:
        with self._measuring("discard"):
            await self._inner.discard(upload)

    async def size(self, key: str) -> int | None:
        with self._measuring("size"):
            return await self._inner.size(key)

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        # From the first bytes on the client sets the pace.
        pieces = cast("AsyncGenerator[bytes, None]", self._inner.read(key, offset, length))
        async with aclosing(pieces):
            with self._measuring("read"):
                piece = await anext(pieces, b"")
            while piece:
                metrics.READ.inc(len(piece))
                yield piece
                try:
                    piece = await anext(pieces, b"")
                except ReelhaulError as error:
                    self._count("read", error)
                    raise

    async def delete(self, key: str) -> None:
        with self._measuring("delete"):
            await self._inner.delete(key)

    def list_staged(self, before: datetime) -> AsyncIterator[str]:
        return self._inner.list_staged(before)

    def list_keys(self, before: datetime) -> AsyncIterator[str]:
        return self._inner.list_keys(before)

    async def check(self) -> None:
        with self._measuring("check"):
            await self._inner.check()

    async def measure_space(self) -> DiskSpace | None:
        return await self._inner.measure_space()

    @contextmanager
    def _measuring(self, operation: str) -> Iterator[None]:
        """Count the block as *operation*, with its outcome, its duration if it succeeds, and as a span."""
        start = self._clock()
        try:
            with spans.start(f"{self._inner.backend} {operation}"):
                yield
        except BaseException as error:
            self._count(operation, error)
            raise
        self._count(operation)
        seconds = self._clock() - start
        metrics.OPERATION_SECONDS.labels(self._inner.backend, operation).observe(seconds)

    def _count(self, operation: str, error: BaseException | None = None) -> None:
        metrics.OPERATIONS.labels(self._inner.backend, operation, _outcome(error)).inc()


class _MeteredWriter:
    """A writer of staged bytes whose ``persist`` is measured."""

    def __init__(self, inner: StagedWriter, measuring: Callable[[str], AbstractContextManager[None]]) -> None:
        self._measuring = measuring
        self.write = inner.write
        self._persist = inner.persist

    async def persist(self) -> int:
        with self._measuring("persist"):
            return await self._persist()


def _outcome(error: BaseException | None) -> str:
    """Return the label of an operation that ended with *error*: refusals are the caller's, not failures."""
    match error:
        case None:
            return "ok"
        case ReelhaulError(reason=ErrorReason.STORAGE_UNAVAILABLE):
            return "unavailable"
        case ReelhaulError() | KeyError() | EOFError():
            return "refused"
        case CancelledError() | GeneratorExit():
            return "cancelled"
        case _:
            return "failed"
