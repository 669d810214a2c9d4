"""Lists over real gRPC, real NATS and real SQLite, paged through by a fetcher that knows no site."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tests.jobs.calls import create_job, reason_of, wait_for_end
from tests.jobs.conftest import eventually, with_settings
from tests.jobs.fake_worker import run_worker

from reelhaul.jobs.v1.job_pb2 import Expansion, Job
from reelhaul.jobs.v1.job_service_pb2 import (
    CancelJobRequest,
    CreateJobRequest,
    DeleteJobRequest,
    GetJobRequest,
    ListJobsRequest,
    RetryJobRequest,
)
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import PlaylistEntry
from reelhaul.work.v1.lease_service_pb2 import FinishRequest, RenewRequest
from reelhaul_jobs.model.retries import error_status

LIST = media_pb2.MediaInfo(title="A list", extractor="tube:list", entry_count=3)


def entries(*positions: int) -> list[PlaylistEntry]:
    return [PlaylistEntry(url=f"https://v.example/{n}", position=n, media_id=str(n)) for n in positions]


async def a_list(service, **fields) -> Job:
    return await create_job(service, kind=Job.EXPANSION, **fields)


async def found(service, parent: Job) -> list[Job]:
    asked = ListJobsRequest(filter=f'parent_job = "{parent.name}"', order_by="create_time", page_size=1000)
    return list((await service.jobs.ListJobs(asked)).jobs)


async def get(service, job: Job) -> Job:
    return await service.jobs.GetJob(GetJobRequest(name=job.name))


def is_list(held) -> bool:
    return held.lease.spec.HasField("expansion")


async def finish_list(held):
    return await held.finish(succeeded=FinishRequest.Succeeded(media=LIST))


async def test_a_list_becomes_jobs_that_run(service):
    """Each entry is downloaded as the list was asked for; the first before the list has ended."""
    parent = await a_list(service, labels={"a": "b"}, priority=Job.NORMAL, format={"max_height": 720})
    first_done = asyncio.Event()

    async def work(held):
        if not is_list(held):
            assert held.lease.spec.format.max_height == 720
            await held.succeed()
            first_done.set()
            return
        assert held.lease.spec.expansion.max_entries == 100
        await held.renew(media=LIST, entries=entries(1, 2))
        await first_done.wait()
        await held.renew(entries=entries(2, 3))
        await finish_list(held)

    async with run_worker(service, work, slots=2):
        assert (await wait_for_end(service, parent.name)).state == Job.SUCCEEDED
        for child in await found(service, parent):
            assert (await wait_for_end(service, child.name)).state == Job.SUCCEEDED
    children = await found(service, parent)
    assert [child.url for child in children] == [f"https://v.example/{n}" for n in (1, 2, 3)]
    assert {(c.parent_job, c.batch_id, c.labels["a"]) for c in children} == {
        (parent.name, parent.batch_id, "b")
    }
    told = (await get(service, parent)).expansion
    assert (told.job_count, told.skipped_count, told.entry_count) == (3, 0, 3)
    assert dict(told.state_counts) == {"SUCCEEDED": 3}


async def test_what_cannot_be_a_job_is_skipped(service):
    """Entries that are private, or whose URL no job may have, are counted and left out."""
    parent = await a_list(service)

    async def work(held):
        if is_list(held):
            forbidden = PlaylistEntry(url="http://169.254.169.254/", position=2)
            await held.renew(media=LIST, entries=[PlaylistEntry(position=1), forbidden, *entries(3)])
            await finish_list(held)

    async with run_worker(service, work):
        await wait_for_end(service, parent.name)
    told = (await get(service, parent)).expansion
    assert (told.job_count, told.skipped_count) == (1, 2)


@with_settings(jobs_lease_seconds=2)
async def test_cancelling_while_expanding_cancels_the_jobs_too(service):
    """A cancelled list makes no more jobs, and those that it made end, though none was claimed."""
    parent = await a_list(service)
    made, told = asyncio.Event(), asyncio.Event()

    async def work(held):
        if not is_list(held):
            return
        await held.renew(entries=entries(*range(1, 81)))
        made.set()
        await told.wait()
        answer = await held.renew(entries=entries(*range(81, 101)))
        assert answer.renewal.cancel_requested
        await held.finish(cancelled=FinishRequest.Cancelled())

    async with run_worker(service, work):
        await made.wait()
        cancelled = await service.jobs.CancelJob(CancelJobRequest(name=parent.name, reason="wrong list"))
        assert cancelled.state == Job.CANCELLING
        told.set()
        assert (await wait_for_end(service, parent.name)).state == Job.CANCELLED

        async def all_cancelled():
            counts = (await get(service, parent)).expansion.state_counts
            return dict(counts) == {"CANCELLED": 80}

        await eventually(all_cancelled)
    assert parent.name in (await found(service, parent))[0].error.message


async def test_cancelling_a_list_that_has_ended(service):
    """What is left of its jobs is cancelled; the list itself stays as it ended."""
    parent = await a_list(service)

    async def work(held):
        if is_list(held):
            await held.renew(entries=entries(1, 2))
            await finish_list(held)

    async with run_worker(service, work):
        await wait_for_end(service, parent.name)
    answer = await service.jobs.CancelJob(CancelJobRequest(name=parent.name))
    assert answer.state == Job.SUCCEEDED

    async def all_cancelled():
        return {child.state for child in await found(service, parent)} == {Job.CANCELLED}

    await eventually(all_cancelled)


@with_settings(jobs_lease_seconds=2)
async def test_deleting_a_running_list(service):
    """It is gone at once, and its jobs end: none runs on without it."""
    parent = await a_list(service)
    made, gone = asyncio.Event(), asyncio.Event()

    async def work(held):
        if is_list(held):
            await held.renew(entries=entries(1, 2))
            made.set()
            await gone.wait()
            assert (await held.renew()).renewal.cancel_requested
            await held.finish(cancelled=FinishRequest.Cancelled())

    async with run_worker(service, work):
        await made.wait()
        await service.jobs.DeleteJob(DeleteJobRequest(name=parent.name))
        gone.set()

        async def all_cancelled():
            return {child.state for child in await found(service, parent)} == {Job.CANCELLED}

        await eventually(all_cancelled)


async def test_a_failed_list_goes_on_where_it_was(service):
    """A retry begins after the entries that are taken; the jobs made stay."""
    parent = await a_list(service, retry_policy={"max_attempts": 1})
    starts = []

    async def work(held):
        if not is_list(held):
            return
        starts.append(held.lease.spec.expansion.start_position)
        if len(starts) == 1:
            await held.renew(entries=entries(1, 2))
            failure = error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "503")
            await held.finish(failed=FinishRequest.Failed(status=failure))
        else:
            await held.renew(entries=entries(3))
            await finish_list(held)

    async with run_worker(service, work):
        assert (await wait_for_end(service, parent.name)).state == Job.FAILED
        await service.jobs.RetryJob(RetryJobRequest(name=parent.name))
        assert (await wait_for_end(service, parent.name)).state == Job.SUCCEEDED
    assert starts == [0, 2]
    assert len(await found(service, parent)) == 3


async def test_no_more_than_the_cap(service):
    """Entries beyond max_entries make no jobs, whatever a worker tells."""
    parent = await a_list(service, expansion=Expansion(max_entries=2))

    async def work(held):
        if is_list(held):
            await held.renew(entries=entries(1, 2, 3))
            await finish_list(held)

    async with run_worker(service, work):
        await wait_for_end(service, parent.name)
    assert len(await found(service, parent)) == 2


async def test_too_many_entries_at_once(service):
    """One renewal carries 500 entries at most."""
    asked = RenewRequest(job=(await a_list(service)).name, epoch=1, entries=entries(*range(1, 502)))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.leases.Renew(asked)
    assert reason_of(failure) == "FIELD_INVALID"


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (Job(kind=Job.EXPANSION, expansion=Expansion(max_entries=10_001)), "job.expansion.max_entries"),
        (Job(expansion=Expansion(max_entries=5)), "job.expansion"),
        (
            Job(kind=Job.EXPANSION, expansion=Expansion(new_entries_only=True)),
            "job.expansion.new_entries_only",
        ),
    ],
)
async def test_bad_expansions(service, job, field):
    """What an expansion may not be is refused by the field's name, and nothing is kept."""
    job.url = "https://v.example/list"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(CreateJobRequest(job=job))
    assert field in failure.value.details()
    assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 0
