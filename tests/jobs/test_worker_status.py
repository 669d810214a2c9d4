"""The status that workers report, and how it explains why a job waits: over real gRPC and NATS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.jobs.conftest import eventually
from tests.jobs.fake_worker import run_worker
from tests.jobs.test_site_limits import create, get

from reelhaul.jobs.v1.job_pb2 import Job, Wait
from reelhaul.work.v1.work_pb2 import WorkerNotice
from reelhaul_jobs.model.wait_reason import Shortage, WorkerStatus, find_shortage
from reelhaul_jobs.service.event_hub import WorkerRegistry

MIDNIGHT = datetime(2030, 1, 2, tzinfo=UTC)


async def report(service, worker: str, shortage=WorkerNotice.SHORTAGE_UNSPECIFIED, slots: int = 2) -> None:
    notice = WorkerNotice(worker=worker, slot_count=slots, shortage=shortage)
    if shortage == WorkerNotice.EGRESS:
        notice.until.FromDatetime(MIDNIGHT)
    await service.nats.publish(f"workers.{worker}", notice.SerializeToString())


async def waits_for(service, job: Job, reason: Wait.Reason.ValueType) -> Wait:
    """Return why the job waits once that is *reason*."""

    async def has_reason() -> bool:
        return (await get(service, job)).wait.reason == reason

    await eventually(has_reason)
    return (await get(service, job)).wait


async def test_shortage_of_all_workers(service):
    """A job waits because of a shortage only while every worker has one."""
    job = await create(service, "a.example")
    assert (await get(service, job)).wait.reason == Wait.NO_WORKER
    await report(service, "one")
    assert (await waits_for(service, job, Wait.IN_QUEUE)).position == 1
    await report(service, "one", WorkerNotice.DISK)
    wait = await waits_for(service, job, Wait.DISK_FULL)
    assert (wait.position, "disk" in wait.message) == (1, True)
    await report(service, "two")
    await waits_for(service, job, Wait.IN_QUEUE)
    await report(service, "two", slots=0)
    await waits_for(service, job, Wait.DISK_FULL)
    await report(service, "one", WorkerNotice.EGRESS)
    wait = await waits_for(service, job, Wait.EGRESS_SPENT)
    assert (wait.position, wait.until.ToDatetime(UTC)) == (1, MIDNIGHT)
    await report(service, "one", slots=0)
    await waits_for(service, job, Wait.NO_WORKER)


async def test_worker_without_status(service):
    """A worker that is known only by its claims may take the job, beside one that is short of space."""
    await report(service, "full", WorkerNotice.DISK)

    async def work(held) -> None:
        await held.succeed()

    async with run_worker(service, work, slots=4):
        done = await create(service, "a.example")
        await eventually(lambda: _succeeded(service, done))
    job = await create(service, "b.example")
    assert (await get(service, job)).wait.reason == Wait.IN_QUEUE


async def _succeeded(service, job: Job) -> bool:
    return (await get(service, job)).state == Job.SUCCEEDED


async def test_unknown_shortage(service):
    """A shortage that this build does not know counts as none."""
    job = await create(service, "a.example")
    await report(service, "newer", 77)
    await waits_for(service, job, Wait.IN_QUEUE)


def test_silent_worker():
    """A worker that reported nothing for thirty seconds is not active any more."""
    now = [0.0]
    registry = WorkerRegistry(lambda: now[0])
    registry.record(WorkerStatus("one", 2))
    now[0] = 20
    registry.record(WorkerStatus("two", 2))
    now[0] = 31
    assert [each.worker for each in registry.active()] == ["two"]


@pytest.mark.parametrize("other", [Shortage.DISK, Shortage.EGRESS])
def test_shortage_that_ends_first(other: Shortage):
    """Of several shortages the first to end is reported: disk space at any moment, an egress at its time."""
    soon = WorkerStatus("soon", 1, other, MIDNIGHT if other is Shortage.EGRESS else None)
    late = WorkerStatus("late", 1, Shortage.EGRESS, MIDNIGHT + timedelta(days=1))
    assert find_shortage([late, soon], 2) is soon
