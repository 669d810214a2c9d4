"""Kept downloads: after which ends of an attempt the next one continues, on a worker with fakes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fetcher.worker_harness import JOB, OTHER_JOB, WorkerHarness

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.service.direct_fetch import DirectFetches
from reelhaul_runtime.errors import ReelhaulError

Reason = ErrorReason
Refusal = lease_pb2.Refusal


class KeepingHarness(WorkerHarness):
    """A worker that keeps bytes, and whose engine receives some before it waits."""

    def __init__(self, work_dir: Path, lease_seconds: float = 30.0, slots: int = 1) -> None:
        super().__init__(work_dir, lease_seconds, slots, kept_bytes=1 << 30)
        #: What each fetch found of earlier ones.
        self.found: list[list[str]] = []
        self.engine.on_fetch = self._receive

    def _receive(self, request: FetchRequest) -> None:
        request.received.mkdir(exist_ok=True)
        self.found.append(sorted(os.listdir(request.received)))
        (request.received / f"part{len(self.found)}").write_bytes(b"x" * 10_000)

    async def run_job(self, job: str = JOB) -> None:
        """Run an attempt to its end."""
        acknowledged = self.log.count("ack")
        async with self.running():
            self.enqueue(job)
            await self.wait_logged("ack", acknowledged + 1)


@pytest.fixture
def harness(tmp_path: Path) -> KeepingHarness:
    """A worker with one slot."""
    return KeepingHarness(tmp_path)


@pytest.mark.parametrize(
    ("reason", "is_kept"),
    [
        (Reason.UPSTREAM_UNAVAILABLE, True),
        (Reason.UPSTREAM_STALLED, True),
        (Reason.UPSTREAM_THROTTLED, True),
        (Reason.ATTEMPT_TIMED_OUT, True),
        (Reason.STORAGE_UNAVAILABLE, True),
        (Reason.WORKER_LOST, True),
        (Reason.VERIFICATION_FAILED, False),
        (Reason.POSTPROCESSING_FAILED, False),
        (Reason.MEDIA_TOO_LARGE, False),
        (Reason.WORKER_DISK_FULL, False),
        (None, False),
    ],
    ids=lambda value: Reason.Name(value) if isinstance(value, int) and value > 1 else str(value),
)
async def test_failure(harness: KeepingHarness, reason: int | None, is_kept: bool) -> None:
    """A retry continues after an interruption, and starts anew where the bytes may be the cause."""
    harness.leases.job_goes_on = True
    harness.engine.failure = ValueError() if reason is None else ReelhaulError(reason, "it failed")
    await harness.run_job()
    assert bool(harness.work_dirs) is is_kept
    harness.engine.failure, harness.leases.job_goes_on = None, False
    await harness.run_job()
    assert harness.found == [[], ["part1"] if is_kept else []]
    assert harness.work_dirs == []


@pytest.mark.parametrize("outcome", ["succeeded", "failed for good", "cancelled"])
async def test_ended_job_keeps_nothing(harness: KeepingHarness, outcome: str) -> None:
    """When the job has ended, nothing of it is left."""
    if outcome == "failed for good":
        harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    elif outcome == "cancelled":
        harness.engine.go.clear()
        harness.leases.renew_response.renewal.cancel_requested = True
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        await harness.wait_logged("ack")
    assert harness.work_dirs == []


@pytest.mark.parametrize(
    ("reason", "job_ended"),
    [
        (Refusal.LOST, False),
        (Refusal.LOST, True),
        (Refusal.PAUSED, False),
        (Refusal.ENDED, True),
        (Refusal.UNKNOWN, True),
    ],
    ids=["lost", "ended elsewhere", "paused", "ended", "deleted"],
)
async def test_refused_renewal(tmp_path: Path, reason: Refusal.Reason.ValueType, job_ended: bool) -> None:
    """A lost lease or a pause leaves the bytes to the next lease; an ended or deleted job does not."""
    harness = KeepingHarness(tmp_path, lease_seconds=0.06)
    harness.engine.go.clear()
    refusal = harness.leases.renew_response.refusal
    refusal.reason, refusal.job_ended = reason, job_ended
    await harness.run_job()
    assert harness.engine.stopped
    assert bool(harness.work_dirs) is not job_ended


async def test_refused_finish_keeps(harness: KeepingHarness) -> None:
    """A result that comes too late is discarded, but its media need not be received again."""
    harness.leases.finish_response.refusal.reason = Refusal.LOST
    await harness.run_job()
    harness.leases.finish_response = lease_service_pb2.FinishResponse()
    await harness.run_job()
    assert harness.found == [[], ["part1"]]


async def test_traffic_is_that_of_the_attempt(harness: KeepingHarness) -> None:
    """A failed attempt reports what it received itself, not what the progress counts of earlier ones."""
    harness.guard.reported_usage = Usage(ingress_bytes=7)
    harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    await harness.run_job()
    assert (harness.outcome.progress.downloaded_bytes, harness.outcome.ingress_bytes) == (3, 7)


async def test_drain_keeps(harness: KeepingHarness, tmp_path: Path) -> None:
    """A job that a drain requeues continues on the worker that is started next."""
    harness.leases.job_goes_on = True
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
    await harness.worker.drain(grace=0.01)
    successor = KeepingHarness(tmp_path)
    await successor.run_job()
    assert successor.found == [["part1"]]


async def test_eviction_keeps_nothing(harness: KeepingHarness) -> None:
    """A job that is requeued for want of space frees its space."""
    harness.leases.job_goes_on = True
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.free_bytes = 50
        await harness.wait_logged("ack")
    assert harness.work_dirs == []


async def test_kept_bytes_go_before_work_waits(harness: KeepingHarness) -> None:
    """A worker whose disk is short deletes what it keeps, and evicts or refuses nothing for it."""
    harness.leases.job_goes_on = True
    harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    await harness.run_job()
    (kept,) = harness.work_dirs
    harness.free_while = lambda: 999 if kept.exists() else 1 << 40
    assert not await harness.disk.measure()
    assert harness.work_dirs == []


async def test_hint_of_an_ended_job(harness: KeepingHarness) -> None:
    """A worker that is notified of the end of a waiting job deletes the media kept for it."""
    harness.leases.job_goes_on = True
    harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    await harness.run_job()
    await harness.run_job(OTHER_JOB)
    async with harness.running():
        harness.queue.put_hint(work_pb2.StopHint(job=JOB, epoch=1))
        harness.queue.put_hint(work_pb2.StopHint(job=OTHER_JOB, epoch=1, job_ended=True))
        await _wait_until(lambda: len(harness.work_dirs) == 1)
    assert harness.work_dirs[0].name.startswith(JOB.removeprefix("jobs/"))


@pytest.mark.parametrize("job_ended", [True, False])
async def test_missed_job_end(harness: KeepingHarness, tmp_path: Path, job_ended: bool) -> None:
    """A worker queries jobs about kept media at its start, because an earlier one may have missed the end."""
    harness.leases.job_goes_on = True
    harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    await harness.run_job()
    successor = KeepingHarness(tmp_path)
    refusal = successor.leases.renew_response.refusal
    refusal.reason, refusal.job_ended = Refusal.LOST, job_ended
    async with successor.running():
        await successor.wait_logged("renew")
        if job_ended:
            await _wait_until(lambda: not successor.work_dirs)
    assert [(r.job, r.epoch) for r in successor.leases.renewals] == [(JOB, 0)]
    assert bool(successor.work_dirs) is not job_ended


async def test_later_lease_ends_the_earlier(tmp_path: Path) -> None:
    """If a worker gets a job again before it hears that the lease is lost, the first attempt stops first.

    No two attempts write into one file, and nothing is received twice.
    """
    harness = KeepingHarness(tmp_path, slots=2)
    harness.engine.go.clear()
    async with harness.running():
        harness.enqueue()
        await harness.engine.started.wait()
        harness.engine.started.clear()
        harness.enqueue()
        await harness.engine.started.wait()
        assert harness.engine.stopped
        assert harness.log.count("ack") == 1
        harness.engine.go.set()
        await harness.wait_logged("ack", 2)
    assert harness.found == [[], ["part1"]]
    assert harness.outcome.epoch == 2
    assert harness.work_dirs == []


async def test_direct_fetch_keeps_nothing(harness: KeepingHarness) -> None:
    """A fetch without a job has no next attempt."""
    harness.engine.failure = ReelhaulError(Reason.UPSTREAM_UNAVAILABLE, "it failed")
    fetches = DirectFetches(harness.worker, harness.context, max_per_tenant=1)
    fetch = fetches.execute(lease_pb2.FetchSpec(url="https://example.com/", tenant="local"))
    await fetch.wait_ended()
    assert harness.found == [[]]
    assert harness.work_dirs == []


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.005)
