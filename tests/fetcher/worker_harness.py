"""A worker on fakes, for tests of the worker and of what runs on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.fetcher.fakes import FakeArtifacts, FakeEngine, FakeGuard, FakeLeases, FakeQueue

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.model.disk_limits import DiskThresholds
from reelhaul_fetcher.service.attempt import AttemptContext
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.download import Downloader, Limits
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_fetcher.service.worker import Worker

JOB = "jobs/018f0000-0000-7000-8000-000000000001"
OTHER_JOB = "jobs/018f0000-0000-7000-8000-000000000002"


class WorkerHarness:
    """A worker, its fakes, and the log of their calls."""

    def __init__(
        self,
        work_dir: Path,
        lease_seconds: float = 30.0,
        slots: int = 1,
        recordings: int = 1,
        kept_bytes: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self.log: list[str] = []
        self.work_dir = work_dir
        self.queue, self.leases = FakeQueue(self.log), FakeLeases(self.log, lease_seconds)
        self.engine, self.guard, self.artifacts = FakeEngine(), FakeGuard(), FakeArtifacts()
        #: Free bytes of its disk, and what computes them instead if it is set.
        self.free_bytes = 1 << 40
        self.free_while: Callable[[], int] | None = None
        scratch = WorkDirs(work_dir, disk_free=self._disk_free, kept_bytes=kept_bytes)
        self.disk = DiskMonitor(scratch, DiskThresholds(pause=1000, reserve=100))
        self.access = SiteAccess(self.guard)
        limits = limits or Limits(0, 60, 60)
        downloader = Downloader(self.engine, self.access, self.artifacts, scratch, limits)
        self.context = AttemptContext(
            self.leases, self.queue, downloader, self.disk, "worker-1", self._describe_slot, time.monotonic
        )
        self.worker = Worker(self.context, slots, recordings)
        self.leases.specs[JOB] = lease_pb2.FetchSpec(url="https://example.com/", tenant="local")

    def _disk_free(self, _: Path) -> int:
        return self.free_while() if self.free_while else self.free_bytes

    def _describe_slot(self) -> lease_pb2.Slot:
        return self.worker.describe_slot("default", self.engine.version, 1)

    def enqueue(self, job: str = JOB) -> None:
        """Queue a work item of *job*."""
        self.leases.specs.setdefault(job, self.leases.specs[JOB])
        self.queue.put(work_pb2.WorkItem(job=job, attempt=1))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the worker within the block."""
        task = asyncio.create_task(self.worker.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def wait_logged(self, entry: str, count: int = 1) -> None:
        """Return when *entry* is in the log *count* times."""
        async with asyncio.timeout(5):
            while self.log.count(entry) < count:  # noqa: ASYNC110 - a list sends no event
                await asyncio.sleep(0.005)

    async def wait_published(self, predicate: Callable[[Progress], bool]) -> None:
        """Return when progress that fulfils *predicate* was published."""
        async with asyncio.timeout(5):
            while not any(predicate(notice.progress) for notice in self.queue.published):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    @property
    def work_dirs(self) -> list[Path]:
        """Work directories that are left."""
        return list(self.work_dir.iterdir())

    @property
    def outcome(self) -> lease_service_pb2.FinishRequest:
        """The only Finish request."""
        (finish,) = self.leases.finishes
        return finish
