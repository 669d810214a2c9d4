"""Health of the backend: how often it is checked, and what is reported of it."""

from __future__ import annotations

from typing import Any

import pytest

from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import BlobHealth
from reelhaul_storage.service.backend_health import BackendHealth


class FakeBackend:
    """A blob store, and its catalog, that fails with ``failure`` if it is set."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.failure: BackendUnavailable | None = None
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        if self.failure is not None:
            raise self.failure

    async def measure_space(self) -> None:
        return None

    async def get_blob_health(self) -> BlobHealth:
        return BlobHealth(damaged=0, oldest_verify_time=None)


@pytest.mark.parametrize(("name", "expected"), [("local", 4), ("s3", 2)])
async def test_interval(name: str, expected: int):
    """A disk is checked each time; S3, where a check costs requests, every five seconds."""
    backend: Any = FakeBackend(name)
    time = [0.0]
    health = BackendHealth(backend, backend, lambda: time[0])
    for time[0] in (0.0, 2.0, 4.0, 6.0):
        await health.check()
    assert backend.checks == expected


async def test_outage():
    """The error of a failed check is raised and reported until a later check passes."""
    backend: Any = FakeBackend("s3")
    time = [0.0]
    health = BackendHealth(backend, backend, lambda: time[0])
    backend.failure = BackendUnavailable("s3", "S3 does not respond")
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await health.check()
    assert backend.checks == 1
    status = await health.get_status()
    assert (status.problem, status.latency) == ("S3 does not respond", None)
    backend.failure, time[0] = None, 5.0
    status = await health.get_status()
    assert (status.backend, status.problem, status.latency) == ("s3", "", 0.0)
