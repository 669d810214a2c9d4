"""Disk space: work waits while the disk is short, and downloads that do not fit are evicted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fetcher.worker_harness import JOB, OTHER_JOB, WorkerHarness

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.model.disk_limits import DiskThresholds, DiskUsage, Eviction, choose_evictions
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError, Unavailable, from_status

THRESHOLDS = DiskThresholds(pause=100, reserve=10)
Released = lease_service_pb2.FinishRequest.Released


@pytest.mark.parametrize(
    ("free", "usages", "evictions"),
    [
        (50, [DiskUsage(100, 30), DiskUsage(5, 10)], []),
        # Together they do not fit: the newest is evicted, through no fault of its own.
        (50, [DiskUsage(100, 30), DiskUsage(5, 20)], [Eviction(1, own_fault=False)]),
        # The disk fills with bytes of unknown total.
        (9, [DiskUsage(200), DiskUsage(50)], [Eviction(1, own_fault=False)]),
        # Others fill it: the last one is evicted too, while the worker waits for space.
        (5, [DiskUsage(20)], [Eviction(0, own_fault=False)]),
        # The job itself fills it: here it would fail again and again.
        (5, [DiskUsage(500)], [Eviction(0, own_fault=True)]),
        # One that can never fit is evicted alone, however old; the others stay.
        (90, [DiskUsage(60, 1000), DiskUsage(50, 20)], [Eviction(0, own_fault=True)]),
        (0, [], []),
    ],
)
def test_choose_evictions(free: int, usages: list[DiskUsage], evictions: list[Eviction]) -> None:
    """The oldest attempts that fit stay and have the space they need."""
    assert choose_evictions(free, usages, THRESHOLDS) == evictions


async def test_no_work_while_disk_is_short(tmp_path: Path) -> None:
    """Below the threshold nothing is claimed and health says why; with enough space work is taken again."""
    harness = WorkerHarness(tmp_path)
    harness.free_bytes = 999
    async with harness.running():
        harness.enqueue()
        await wait_until(lambda: harness.disk.short)
        with pytest.raises(Unavailable, match="999 bytes are free of 1000"):
            await harness.disk.check()
        # A little more is not enough: it would soon be short again.
        harness.free_bytes = 1001
        await wait_until(lambda: harness.disk.free_bytes == 1001)
        assert harness.disk.short
        assert harness.log == []
        harness.free_bytes = 1250
        await harness.wait_logged("ack")
        await harness.disk.check()
    assert harness.outcome.HasField("succeeded")


async def test_disk_fills_while_idle(tmp_path: Path) -> None:
    """An item that arrives on a disk filled meanwhile is handed back unclaimed."""
    harness = WorkerHarness(tmp_path)
    async with harness.running():
        await harness.queue.waiting.wait()
        harness.free_bytes = 999
        harness.enqueue()
        await harness.wait_logged("nak 5")
    assert harness.log == ["nak 5"]


async def test_newest_is_requeued(tmp_path: Path) -> None:
    """If the remaining bytes do not fit, the newest job is released, through no fault of its own."""
    harness = WorkerHarness(tmp_path, slots=2)
    harness.engine.go.clear()
    harness.engine.total_bytes = 60_000
    harness.free_bytes = 100_000
    async with harness.running():
        harness.enqueue()
        harness.enqueue(OTHER_JOB)
        await harness.wait_logged("ack")
        assert (harness.outcome.job, harness.outcome.released.reason) == (OTHER_JOB, Released.DISK)
        assert harness.outcome.released.retry_delay.seconds > 0
        harness.engine.go.set()
        await wait_until(lambda: len(harness.leases.finishes) == 2)
    assert harness.leases.finishes[1].HasField("succeeded")
    assert harness.work_dirs == []


async def test_job_larger_than_worker(tmp_path: Path) -> None:
    """A job larger than the worker's disk fails as retryable and avoids this worker."""
    harness = WorkerHarness(tmp_path)
    harness.engine.go.clear()
    harness.engine.total_bytes = 1 << 50
    harness.free_bytes = 100_000
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    error = from_status(harness.outcome.failed.status)
    assert (error.reason, error.retryable) == (ErrorReason.WORKER_DISK_FULL, True)
    assert error.metadata["worker"] == "worker-1"
    assert harness.outcome.failed.retry_hint.avoid_worker


async def test_full_disk_releases_job(tmp_path: Path) -> None:
    """A write that fails because others filled the disk releases the job."""
    harness = WorkerHarness(tmp_path)
    harness.engine.go.clear()
    harness.engine.failure = ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the worker's disk is full")
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.free_bytes = 50
        harness.engine.go.set()
        await harness.wait_logged("ack")
    assert harness.outcome.released.reason == Released.DISK


async def test_uncommitted_artifacts_are_deleted(tmp_path: Path) -> None:
    """Artifacts of an outcome that jobs rejects, or of a job cancelled meanwhile, are deleted."""
    refused, cancelled = lease_service_pb2.FinishResponse(), lease_service_pb2.FinishResponse()
    refused.refusal.reason = lease_pb2.Refusal.LOST
    cancelled.receipt.cancelled = True
    for answer in (refused, cancelled):
        harness = WorkerHarness(tmp_path)
        harness.leases.finish_response = answer
        async with harness.running():
            harness.enqueue()
            await harness.wait_logged("ack")
        assert harness.outcome.succeeded.artifacts
        assert harness.artifacts.stored == {}


def test_quota_counts_disk_usage(tmp_path: Path) -> None:
    """Free bytes are those of the disk or of the quota, whichever is less; sparse files count by blocks."""
    scratch = WorkDirs(tmp_path, quota_bytes=100_000, disk_free=lambda _: 70_000)
    assert scratch.free_bytes() == 70_000
    folder = scratch.create(JOB, 1)
    before = scratch.used_bytes(JOB, 1)
    (folder / "part").write_bytes(b"x" * 40_960)
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert scratch.used_bytes(JOB, 1) == before + 40_960
    assert scratch.free_bytes() == 100_000 - before - 40_960
    assert scratch.used_bytes(OTHER_JOB, 1) == 0


def test_invalid_thresholds() -> None:
    """Settings with which no work would ever be taken are rejected by name."""
    with pytest.raises(ValueError, match="DISK_QUOTA_BYTES leaves no work"):
        Settings(fetcher_disk_quota_bytes=1000, fetcher_disk_pause_bytes=900, fetcher_disk_reserve_bytes=1)
    with pytest.raises(ValueError, match="DISK_PAUSE_BYTES is below"):
        Settings(fetcher_disk_pause_bytes=1)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.005)
