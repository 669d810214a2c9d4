"""Health of the backend: checks it by a real write, read and deletion, and reports its state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from reelhaul_runtime.errors import ReelhaulError
from reelhaul_storage.model import BlobHealth, DiskSpace
from reelhaul_storage.ports import BlobStore, Catalog

# A check of S3 costs three requests; one of a disk costs nothing.
_KEEP_SECONDS = {"local": 0.0, "s3": 5.0}


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """The state of the backend and of the bytes in it."""

    backend: str
    #: Seconds that the last check took; None if it failed.
    latency: float | None
    #: Why the last check failed; empty if it did not.
    problem: str
    space: DiskSpace | None
    blobs: BlobHealth


class BackendHealth:
    """Checks the backend, and keeps the result: for how long depends on the backend."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock
        self._lock = asyncio.Lock()
        self._check_time = float("-inf")
        self._latency = 0.0
        self._failure: ReelhaulError | None = None

    async def check(self) -> float:
        """Return how many seconds the last check took, if it passed. Raises STORAGE_UNAVAILABLE."""
        async with self._lock:
            if self._clock() - self._check_time >= _KEEP_SECONDS[self._blobs.backend]:
                await self._check_now()
            if self._failure is not None:
                raise self._failure
            return self._latency

    async def get_status(self) -> BackendStatus:
        """Return the state of the backend, with the result of the last check."""
        latency: float | None
        try:
            latency = await self.check()
            space = await self._blobs.measure_space()
        except ReelhaulError as error:
            latency, space, problem = None, None, error.text
        else:
            problem = ""
        return BackendStatus(
            self._blobs.backend, latency, problem, space, await self._catalog.get_blob_health()
        )

    async def _check_now(self) -> None:
        start = self._clock()
        try:
            await self._blobs.check()
        except ReelhaulError as error:
            self._failure = error
        else:
            self._failure, self._latency = None, self._clock() - start
        self._check_time = self._clock()
