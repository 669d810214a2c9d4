"""Health of the suite: its components, their checks, and the verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from reelhaul.storage.v1.storage_service_pb2 import StorageStatus
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.up import probes

UNKNOWN = ServingStatus.SERVING_STATUS_UNSPECIFIED
SERVING = ServingStatus.SERVING_STATUS_SERVING
DEGRADED = ServingStatus.SERVING_STATUS_DEGRADED
NOT_SERVING = ServingStatus.SERVING_STATUS_NOT_SERVING

# A service that does not answer for less than this time is still believed to serve: a gateway that is busy
# with clients who reconnect would otherwise be unready, and so would the next one that gets its clients.
_SILENCE_SECONDS = 5.0
# Bounds the checks while still being fresh for clients that poll every tenth of a second.
_CACHE_SECONDS = 0.5
# For another worker of this gateway to answer.
_WORKER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Component:
    """A component whose health one of the services reports."""

    #: The name in reports, e.g. ``jobs.database``.
    name: str
    #: The service to ask, and the component's name in its gRPC health service.
    owner: str
    health_name: str
    #: Whether the suite is down without it.
    critical: bool = True


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of checking a component."""

    name: str
    status: ServingStatus.ValueType
    critical: bool
    message: str = ""
    #: Seconds that the check took; None if it failed.
    seconds: float | None = None
    #: Bytes free on its disk, and the size of that; None if it has none.
    free_bytes: int | None = None
    total_bytes: int | None = None


_BACKEND = "storage.backend"

SERVICES = (
    Component("jobs", "jobs", "reelhaul.jobs.v1.JobService"),
    Component("storage", "storage", "reelhaul.storage.v1.StorageService"),
    # Without fetchers jobs are accepted and wait.
    Component("fetcher", "fetcher", "reelhaul.fetcher.v1.FetcherService", critical=False),
)

DEPENDENCIES = (
    Component("jobs.database", "jobs", "jobs.database"),
    # Without the broker jobs are accepted and wait, and watchers get states a little later.
    Component("nats", "jobs", "jobs.nats", critical=False),
    Component("storage.database", "storage", "storage.database"),
    Component(_BACKEND, "storage", _BACKEND),
    Component("fetcher.nats", "fetcher", "fetcher.nats", critical=False),
    Component("fetcher.engine", "fetcher", "fetcher.engine", critical=False),
    # Not serving while its disk is short of space: jobs wait.
    Component("fetcher.disk", "fetcher", "fetcher.disk", critical=False),
    # Not serving once it is drained: it accepts no more work.
    Component("fetcher.work", "fetcher", "fetcher.work", critical=False),
)


class HealthChecker(Protocol):
    """Asks the services for their health."""

    async def check(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        """Return what *owner* reports for *health_name*; UNKNOWN if it does not know that name.

        Raises Unavailable if it does not answer within two seconds.
        """


class StorageProbe(Protocol):
    """Tests storage end to end, and asks it for its state."""

    async def probe(self) -> None:
        """Write a small artifact, read it back and delete it. Raises ReelhaulError."""

    async def get_status(self) -> StorageStatus:
        """Return the state of the backend. Raises ReelhaulError."""


class Health:
    """Checks the health of the suite."""

    def __init__(
        self,
        checker: HealthChecker,
        storage_probe: StorageProbe,
        clock: Callable[[], float] = time.monotonic,
        other_workers: Sequence[str] = (),
    ) -> None:
        self._checker, self._storage_probe, self._clock = checker, storage_probe, clock
        # Where the other workers of this gateway answer probes: host:port.
        self._other_workers = other_workers
        self.wanted_workers = 1 + len(other_workers)
        #: How many of them answered the last check, this one included.
        self.ready_workers = 1
        self._start_time = clock()
        self._cached: list[CheckResult] = []
        self._cache_time = float("-inf")
        # When each service served last.
        self._served: dict[str, float] = {}
        self._lock = asyncio.Lock()
        #: Whether this gateway is shutting down.
        self.draining = False

    @property
    def uptime(self) -> float:
        """Seconds since the gateway started."""
        return self._clock() - self._start_time

    async def cached_status(self) -> list[CheckResult]:
        """Check the services; the results may be half a second old."""
        async with self._lock:
            if self._clock() - self._cache_time > _CACHE_SECONDS:
                self._cached, _ = await asyncio.gather(
                    asyncio.gather(*map(self._check, SERVICES)), self._check_workers()
                )
                self._cache_time = self._clock()
                serving = (result.name for result in self._cached if result.status == SERVING)
                self._served |= dict.fromkeys(serving, self._cache_time)
        return self._cached

    async def is_ready(self) -> bool:
        """Return whether this gateway should receive requests: not while a service that they need is down."""
        needed = [result for result in await self.cached_status() if result.critical]
        return not self.draining and all(map(self._counts_as_serving, needed))

    def _counts_as_serving(self, result: CheckResult) -> bool:
        is_silent = result.seconds is None
        silence = self._clock() - self._served.get(result.name, float("-inf"))
        return result.status == SERVING or (is_silent and silence <= _SILENCE_SECONDS)

    async def full_check(self) -> list[CheckResult]:
        """Check all components now, storage with a real write, read and delete."""
        checks = asyncio.gather(*(self._check(component) for component in (*SERVICES, *DEPENDENCIES)))
        results, write, status = await asyncio.gather(
            checks, self._probe_storage(), self.get_storage_status()
        )
        if status is not None:
            results = [_add_status(each, status) if each.name == _BACKEND else each for each in results]
            results.append(_check_integrity(status))
        if self._other_workers:
            results.append(await self._check_workers())
        return [*results, write]

    async def _check_workers(self) -> CheckResult:
        """Return whether all workers of this gateway live; those that do are enough for readiness."""
        answers = await asyncio.gather(
            *(probes.is_alive(f"http://{address}", _WORKER_SECONDS) for address in self._other_workers)
        )
        self.ready_workers = 1 + sum(answers)
        message = f"{self.ready_workers} of {self.wanted_workers} workers answer"
        if self.ready_workers == self.wanted_workers:
            return CheckResult("gateway.workers", SERVING, critical=False, message=message)
        return CheckResult("gateway.workers", NOT_SERVING, critical=False, message=message)

    async def get_storage_status(self) -> StorageStatus | None:
        """Return the state of storage's backend; None if storage does not answer."""
        try:
            return await self._storage_probe.get_status()
        except ReelhaulError:
            return None  # the check of storage says why

    async def _check(self, component: Component) -> CheckResult:
        start = self._clock()
        try:
            status = await self._checker.check(component.owner, component.health_name)
        except ReelhaulError as error:
            return CheckResult(component.name, NOT_SERVING, component.critical, error.text)
        message = "not reported by its service" if status == UNKNOWN else ""
        return CheckResult(component.name, status, component.critical, message, self._clock() - start)

    async def _probe_storage(self) -> CheckResult:
        name, start = "storage.write", self._clock()
        try:
            await self._storage_probe.probe()
        except ReelhaulError as error:
            return CheckResult(name, NOT_SERVING, critical=True, message=error.text)
        return CheckResult(name, SERVING, critical=True, seconds=self._clock() - start)


def _add_status(result: CheckResult, status: StorageStatus) -> CheckResult:
    """Return *result* of the backend with the latency, the space and the problem that storage reports."""
    return replace(
        result,
        seconds=status.latency.ToTimedelta().total_seconds() if status.HasField("latency") else None,
        free_bytes=status.free_bytes if status.HasField("free_bytes") else None,
        total_bytes=status.total_bytes if status.HasField("total_bytes") else None,
        message=status.problem or result.message,
    )


def _check_integrity(status: StorageStatus) -> CheckResult:
    """Return whether all stored bytes are intact, as far as the scrub and reads have found."""
    name = "storage.integrity"
    if not status.damaged_count:
        return CheckResult(name, SERVING, critical=False)
    message = (
        f"{status.damaged_count} contents are damaged: ListArtifacts finds their artifacts by the filter "
        'tenant != "" AND damage_time > 1970-01-02; store them again or delete them'
    )
    return CheckResult(name, NOT_SERVING, critical=False, message=message)


def overall_status(results: Iterable[CheckResult]) -> ServingStatus.ValueType:
    """Return NOT_SERVING if a critical component is down, DEGRADED if only others are, else SERVING."""
    down = [result for result in results if result.status == NOT_SERVING]
    if any(result.critical for result in down):
        return NOT_SERVING
    return DEGRADED if down else SERVING
