"""Disk space: work waits where it is short, and who does not fit leaves, never for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fetcher.worker_harness import JOB, WorkerHarness

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.model.disk_limits import DiskThresholds, DiskUsage, Eviction, choose_evictions
from reelhaul_fetcher.settings import Settings
from reelhaul_runtime.errors import ReelhaulError, Unavailable, from_status

OTHER = "jobs/018f0000-0000-7000-8000-000000000002"
MARKS = DiskThresholds(pause=100, reserve=10)
Released = lease_service_pb2.FinishRequest.Released


@pytest.mark.parametrize(
    ("free", "uses", "leaving"),
    [
        (50, [DiskUsage(100, 30), DiskUsage(5, 10)], []),
        # Together they do not fit: the youngest leaves, through no fault of its own.
        (50, [DiskUsage(100, 30), DiskUsage(5, 20)], [Eviction(1, own_fault=False)]),
        # The disk runs full of what nobody knew of.
        (9, [DiskUsage(200), DiskUsage(50)], [Eviction(1, own_fault=False)]),
        # Others fill it: the last one leaves too, and finds the worker waiting for space.
        (5, [DiskUsage(20)], [Eviction(0, own_fault=False)]),
        # It is the job itself that fills it: here it would end so again and again.
        (5, [DiskUsage(500)], [Eviction(0, own_fault=True)]),
        # One that fits nowhere leaves alone, however old; those beside it stay.
        (90, [DiskUsage(60, 1000), DiskUsage(50, 20)], [Eviction(0, own_fault=True)]),
        (0, [], []),
    ],
)
def test_who_leaves(free: int, uses: list[DiskUsage], leaving: list[Eviction]) -> None:
    """Those who began first stay, and find what they need."""
    assert choose_evictions(free, uses, MARKS) == leaving


async def test_no_work_while_space_is_short(tmp_path: Path) -> None:
    """Below the mark nothing is claimed and health says why; with space again, work is taken."""
    harness = WorkerHarness(tmp_path)
    harness.free_bytes = 999
    async with harness.running():
        harness.enqueue()
        await _until(lambda: harness.disk.short)
        with pytest.raises(Unavailable, match="999 bytes are free of 1000"):
            await harness.disk.check()
        # A little more is not enough, or it would stop again at once.
        harness.free_bytes = 1001
        await asyncio.sleep(1.2)
        assert harness.log == []
        harness.free_bytes = 1250
        await harness.wait_logged("ack")
        await harness.disk.check()
    assert harness.outcome.HasField("succeeded")


async def test_space_that_went_while_there_was_no_work(tmp_path: Path) -> None:
    """An item that comes when the disk has been filled meanwhile goes to another worker, unclaimed."""
    harness = WorkerHarness(tmp_path)
    async with harness.running():
        await asyncio.sleep(0.05)
        harness.free_bytes = 999
        harness.enqueue()
        await harness.wait_logged("nak 5")
    assert harness.log == ["nak 5"]


async def test_the_youngest_is_handed_back(tmp_path: Path) -> None:
    """Where what is to come does not fit, the job that began last waits in the queue, uncharged."""
    harness = WorkerHarness(tmp_path, slots=2)
    harness.engine.go.clear()
    harness.engine.total_bytes = 60_000
    harness.free_bytes = 100_000
    async with harness.running():
        harness.enqueue()
        harness.enqueue(OTHER)
        await harness.wait_logged("ack")
        assert (harness.outcome.job, harness.outcome.released.reason) == (OTHER, Released.DISK)
        assert harness.outcome.released.retry_delay.seconds > 0
        harness.engine.go.set()
        await _until(lambda: len(harness.leases.finishes) == 2)
    assert harness.leases.finishes[1].HasField("succeeded")
    assert harness.work_dirs == []


async def test_one_that_never_fits(tmp_path: Path) -> None:
    """A job that is larger than all the worker has fails as retryable, and asks for another worker."""
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


async def test_a_full_disk_is_no_fault_of_the_job(tmp_path: Path) -> None:
    """A write that finds no space ends the attempt, not the job, where others have filled the disk."""
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


async def test_stored_in_vain(tmp_path: Path) -> None:
    """Artifacts of an outcome that jobs does not take, or of a job cancelled meanwhile, are removed."""
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


def test_a_quota_counts_what_files_take(tmp_path: Path) -> None:
    """What may still be written is the disk's rest or the quota's, whichever is less."""
    scratch = WorkDirs(tmp_path, quota_bytes=100_000, disk_free=lambda _: 70_000)
    assert scratch.free_bytes() == 70_000
    folder = scratch.create(JOB, 1)
    before = scratch.used_bytes(JOB, 1)
    (folder / "part").write_bytes(b"x" * 40_960)
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert scratch.used_bytes(JOB, 1) == before + 40_960
    assert scratch.free_bytes() == 100_000 - before - 40_960
    assert scratch.used_bytes(OTHER, 1) == 0


def test_marks_that_leave_no_work() -> None:
    """Settings by which no work would ever be taken are refused, by name."""
    with pytest.raises(ValueError, match="DISK_QUOTA_BYTES leaves no work"):
        Settings(fetcher_disk_quota_bytes=1000, fetcher_disk_pause_bytes=900, fetcher_disk_reserve_bytes=1)
    with pytest.raises(ValueError, match="DISK_PAUSE_BYTES is below"):
        Settings(fetcher_disk_pause_bytes=1)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
