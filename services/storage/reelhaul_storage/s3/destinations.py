"""S3DestinationBuckets: delivers artifacts to the buckets of tenants, in a bounded number of threads."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from reelhaul_runtime.addresses import Network
from reelhaul_runtime.sealing import Sealer
from reelhaul_storage.errors import DestinationRefused, DestinationUnavailable
from reelhaul_storage.model import Artifact, DeliveredObject, Destination
from reelhaul_storage.s3.connections import Connections

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

T = TypeVar("T")

# Deliveries at once; each holds some parts in memory and some connections.
_THREADS = 8
_PART_BYTES = 8 << 20
# S3 takes at most 10,000 parts.
_MAX_PARTS = 9_000
# Registrations and tests at once, which do not wait for deliveries.
_SHORT_THREADS = 4
_TEST_SECONDS = 50
# A delivery may take these seconds, and those that its bytes take at this rate.
_MIN_SECONDS, _MIN_BYTES_PER_SECOND = 600, 64 << 10
# Seconds that a cancelled delivery may take to delete its parts.
_CANCEL_SECONDS = 60


class S3DestinationBuckets:
    """Implements ports.DestinationBuckets; *load_keys* is called when the first secret is sealed or used."""

    def __init__(self, load_keys: Callable[[], tuple[str, ...]], networks: tuple[Network, ...]) -> None:
        self._load_keys = load_keys
        self._sealer: Sealer | None = None
        self._networks = networks
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="destinations")
        self._short_pool = ThreadPoolExecutor(_SHORT_THREADS, thread_name_prefix="destination-tests")

    @classmethod
    @contextmanager
    def open(
        cls, load_keys: Callable[[], tuple[str, ...]], networks: tuple[Network, ...]
    ) -> Iterator[S3DestinationBuckets]:
        """Yield the buckets; *networks* may be reached besides public addresses."""
        buckets = cls(load_keys, networks)
        try:
            yield buckets
        finally:
            for pool in (buckets._pool, buckets._short_pool):
                pool.shutdown(wait=False, cancel_futures=True)

    async def check_endpoint(self, url: str) -> None:
        def check() -> None:
            from reelhaul_storage.s3 import destination_client

            destination_client.check_endpoint(url, self._networks)

        await self._run(check)

    async def seal(self, secret: str) -> bytes:
        return await self._run(lambda: self._loaded_sealer().seal(secret.encode()))

    async def check(self, destination: Destination) -> None:
        connections = Connections()

        def check() -> None:
            from reelhaul_storage.s3 import destination_client

            with self._client(destination, connections) as client:
                destination_client.write_test_object(client, destination)

        try:
            async with _limit_time(destination, _TEST_SECONDS):
                await self._run(check)
        finally:
            connections.abort()

    async def deliver(
        self, destination: Destination, object_name: str, artifact: Artifact, content: AsyncIterator[bytes]
    ) -> DeliveredObject:
        source = _Source(content, artifact.content.size, asyncio.get_running_loop())
        connections = Connections()

        def deliver() -> DeliveredObject:
            from reelhaul_storage.s3 import destination_client

            with self._client(destination, connections) as client:
                key = destination.prefix + object_name
                return destination_client.deliver(client, destination, key, artifact, source)

        thread = self._pool.submit(deliver)
        delivering = asyncio.wrap_future(thread)
        try:
            async with _limit_time(destination, _MIN_SECONDS + artifact.content.size / _MIN_BYTES_PER_SECOND):
                return await asyncio.shield(delivering)
        finally:
            source.cancelled.set()
            # A thread that runs ends at its next read, and deletes the parts that it has sent.
            if not thread.cancel():
                await asyncio.wait([delivering], timeout=_CANCEL_SECONDS)
            connections.abort()
            delivering.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._short_pool, function)

    def _loaded_sealer(self) -> Sealer:
        if self._sealer is None:
            self._sealer = Sealer(self._load_keys())
        return self._sealer

    def _client(self, destination: Destination, connections: Connections) -> AbstractContextManager[S3Client]:
        from reelhaul_storage.s3 import destination_client

        secret: bytes | None = b""
        if destination.sealed_secret:
            secret = self._loaded_sealer().unseal(destination.sealed_secret)
        if secret is None:
            text = (
                "the secret of the destination cannot be decrypted: REELHAUL_STORAGE_SEAL_KEYS must have the"
                " key that was used when it was registered"
            )
            raise DestinationRefused(destination.name, "seal", text)
        return destination_client.open_client(destination, secret.decode(), self._networks, connections)


@asynccontextmanager
async def _limit_time(destination: Destination, seconds: float) -> AsyncIterator[None]:
    """Raise DESTINATION_UNAVAILABLE after *seconds*."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        text = f"the endpoint of {destination.name} is too slow"
        raise DestinationUnavailable(destination.name, text) from None


class _Cancelled(Exception):
    """The call that a delivery belongs to was cancelled."""


class _Source:
    """The content of an artifact as the file that s3transfer reads in a thread.

    Records the MD5 of each part, for the comparison with the ETag of the object.
    """

    def __init__(self, content: AsyncIterator[bytes], size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._content, self._loop = content, loop
        self.part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        self.cancelled = threading.Event()
        #: What ended the content early.
        self.failure: BaseException | None = None
        self._buffer = bytearray()
        self._ended = False
        self._parts: list[bytes] = []
        self._part, self._part_size = hashlib.md5(usedforsecurity=False), 0

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes, fewer at the end only; without it the rest of a small content."""
        size = size if size >= 0 else self.part_bytes
        while len(self._buffer) < size and not self._ended:
            if self.cancelled.is_set():
                raise _Cancelled
            self._buffer += self._next_piece()
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._hash(data)
        return data

    def etag(self) -> str:
        """Return the ETag of the bytes read, with quotes, as S3 computes it unless KMS encrypts them."""
        if not self._parts and self._part_size < self.part_bytes:
            return f'"{self._part.hexdigest()}"'
        parts = self._parts + ([self._part.digest()] if self._part_size else [])
        return f'"{hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"'

    def _next_piece(self) -> bytes:
        async def read() -> bytes:
            return await anext(self._content, b"")

        try:
            piece = asyncio.run_coroutine_threadsafe(read(), self._loop).result()
        except BaseException as error:
            self.failure = error
            raise
        self._ended = not piece
        return piece

    def _hash(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self.part_bytes - self._part_size]
            self._part.update(piece)
            self._part_size += len(piece)
            view = view[len(piece) :]
            if self._part_size == self.part_bytes:
                self._parts.append(self._part.digest())
                self._part, self._part_size = hashlib.md5(usedforsecurity=False), 0
