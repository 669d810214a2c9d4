"""What workers say of themselves, told to who asks why a job waits: over real gRPC and NATS."""

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


async def say(service, worker: str, shortage=WorkerNotice.SHORTAGE_UNSPECIFIED, slots: int = 2) -> None:
    notice = WorkerNotice(worker=worker, slot_count=slots, shortage=shortage)
    if shortage == WorkerNotice.EGRESS:
        notice.until.FromDatetime(MIDNIGHT)
    await service.nats.publish(f"workers.{worker}", notice.SerializeToString())


async def waits_for(service, job: Job, reason: Wait.Reason.ValueType) -> Wait:
    """What the job says of its wait, once it names *reason*."""

    async def told() -> bool:
        return (await get(service, job)).wait.reason == reason

    await eventually(told)
    return (await get(service, job)).wait


async def test_a_job_says_what_its_workers_are_short_of(service):
    """While every worker is short of something, that is the reason; of one that takes work, the queue is."""
    job = await create(service, "a.example")
    assert (await get(service, job)).wait.reason == Wait.NO_WORKER
    await say(service, "one")
    assert (await waits_for(service, job, Wait.IN_QUEUE)).position == 1
    await say(service, "one", WorkerNotice.DISK)
    wait = await waits_for(service, job, Wait.DISK_FULL)
    assert (wait.position, "disk" in wait.message) == (1, True)
    await say(service, "two")
    await waits_for(service, job, Wait.IN_QUEUE)
    await say(service, "two", slots=0)
    await waits_for(service, job, Wait.DISK_FULL)
    await say(service, "one", WorkerNotice.EGRESS)
    wait = await waits_for(service, job, Wait.EGRESS_SPENT)
    assert (wait.position, wait.until.ToDatetime(UTC)) == (1, MIDNIGHT)
    await say(service, "one", slots=0)
    await waits_for(service, job, Wait.NO_WORKER)


async def test_a_worker_that_says_nothing_of_itself_takes_work(service):
    """Beside one that is short of space, a worker known by its claims alone may take the job."""
    await say(service, "full", WorkerNotice.DISK)

    async def work(held) -> None:
        await held.succeed()

    async with run_worker(service, work, slots=4):
        done = await create(service, "a.example")
        await eventually(lambda: _succeeded(service, done))
    job = await create(service, "b.example")
    assert (await get(service, job)).wait.reason == Wait.IN_QUEUE


async def _succeeded(service, job: Job) -> bool:
    return (await get(service, job)).state == Job.SUCCEEDED


async def test_a_notice_of_a_newer_worker_is_no_shortage(service):
    """What this build does not know, it does not tell."""
    job = await create(service, "a.example")
    await say(service, "newer", 77)
    await waits_for(service, job, Wait.IN_QUEUE)


def test_who_is_silent_is_gone():
    """A worker that was not heard for thirty seconds is on the roll no more."""
    now = [0.0]
    roll = WorkerRegistry(lambda: now[0])
    roll.record(WorkerStatus("one", 2))
    now[0] = 20
    roll.record(WorkerStatus("two", 2))
    now[0] = 31
    assert [each.worker for each in roll.active()] == ["two"]


@pytest.mark.parametrize("other", [Shortage.DISK, Shortage.EGRESS])
def test_the_shortage_that_ends_first_is_told(other: Shortage):
    """Of several shortages the one is told that may end first: space at any moment, a budget at its time."""
    soon = WorkerStatus("soon", 1, other, MIDNIGHT if other is Shortage.EGRESS else None)
    late = WorkerStatus("late", 1, Shortage.EGRESS, MIDNIGHT + timedelta(days=1))
    assert find_shortage([late, soon], 2) is soon
