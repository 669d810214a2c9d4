"""Expansions over real gRPC, NATS and SQLite, with a fetcher that downloads nothing."""

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

PLAYLIST = media_pb2.MediaInfo(title="A list", extractor="tube:list", entry_count=3)


def entries(*positions: int) -> list[PlaylistEntry]:
    return [PlaylistEntry(url=f"https://v.example/{n}", position=n, media_id=str(n)) for n in positions]


async def create_expansion(service, **fields) -> Job:
    return await create_job(service, kind=Job.EXPANSION, **fields)


async def list_children(service, parent: Job) -> list[Job]:
    request = ListJobsRequest(filter=f'parent_job = "{parent.name}"', order_by="create_time", page_size=1000)
    return list((await service.jobs.ListJobs(request)).jobs)


async def get(service, job: Job) -> Job:
    return await service.jobs.GetJob(GetJobRequest(name=job.name))


def is_expansion(held_job) -> bool:
    return held_job.lease.spec.HasField("expansion")


async def finish_expansion(held_job):
    return await held_job.finish(succeeded=FinishRequest.Succeeded(media=PLAYLIST))


async def test_entries_become_jobs_that_run(service):
    """Each entry becomes a job with the fields of the expansion; the first runs before that has ended."""
    parent = await create_expansion(
        service, labels={"a": "b"}, priority=Job.NORMAL, format={"max_height": 720}
    )
    first_done = asyncio.Event()

    async def handle(held_job):
        if not is_expansion(held_job):
            assert held_job.lease.spec.format.max_height == 720
            await held_job.succeed()
            first_done.set()
            return
        assert held_job.lease.spec.expansion.max_entries == 100
        await held_job.renew(media=PLAYLIST, entries=entries(1, 2))
        await first_done.wait()
        await held_job.renew(entries=entries(2, 3))
        await finish_expansion(held_job)

    async with run_worker(service, handle, slots=2):
        assert (await wait_for_end(service, parent.name)).state == Job.SUCCEEDED
        for child in await list_children(service, parent):
            assert (await wait_for_end(service, child.name)).state == Job.SUCCEEDED
    children = await list_children(service, parent)
    assert [child.url for child in children] == [f"https://v.example/{n}" for n in (1, 2, 3)]
    assert {(c.parent_job, c.batch_id, c.labels["a"]) for c in children} == {
        (parent.name, parent.batch_id, "b")
    }
    expansion = (await get(service, parent)).expansion
    assert (expansion.job_count, expansion.skipped_count, expansion.entry_count) == (3, 0, 3)
    assert dict(expansion.state_counts) == {"SUCCEEDED": 3}


async def test_entries_that_cannot_be_jobs_are_skipped(service):
    """Entries that are private, or whose URL is forbidden, are counted as skipped."""
    parent = await create_expansion(service)

    async def handle(held_job):
        if is_expansion(held_job):
            forbidden = PlaylistEntry(url="http://169.254.169.254/", position=2)
            await held_job.renew(media=PLAYLIST, entries=[PlaylistEntry(position=1), forbidden, *entries(3)])
            await finish_expansion(held_job)

    async with run_worker(service, handle):
        await wait_for_end(service, parent.name)
    expansion = (await get(service, parent)).expansion
    assert (expansion.job_count, expansion.skipped_count) == (1, 2)


@with_settings(jobs_lease_seconds=2)
async def test_cancelling_a_running_expansion_cancels_its_jobs(service):
    """A cancelled expansion adds no more jobs, and its jobs are cancelled though none was claimed."""
    parent = await create_expansion(service)
    expanded, cancelled_sent = asyncio.Event(), asyncio.Event()

    async def handle(held_job):
        if not is_expansion(held_job):
            return
        await held_job.renew(entries=entries(*range(1, 81)))
        expanded.set()
        await cancelled_sent.wait()
        answer = await held_job.renew(entries=entries(*range(81, 101)))
        assert answer.renewal.cancel_requested
        await held_job.finish(cancelled=FinishRequest.Cancelled())

    async with run_worker(service, handle):
        await expanded.wait()
        cancelled = await service.jobs.CancelJob(CancelJobRequest(name=parent.name, reason="wrong playlist"))
        assert cancelled.state == Job.CANCELLING
        cancelled_sent.set()
        assert (await wait_for_end(service, parent.name)).state == Job.CANCELLED

        async def all_cancelled():
            counts = (await get(service, parent)).expansion.state_counts
            return dict(counts) == {"CANCELLED": 80}

        await eventually(all_cancelled)
    assert parent.name in (await list_children(service, parent))[0].error.message


async def test_cancelling_an_ended_expansion(service):
    """Its remaining jobs are cancelled; the expansion itself stays as it ended."""
    parent = await create_expansion(service)

    async def handle(held_job):
        if is_expansion(held_job):
            await held_job.renew(entries=entries(1, 2))
            await finish_expansion(held_job)

    async with run_worker(service, handle):
        await wait_for_end(service, parent.name)
    answer = await service.jobs.CancelJob(CancelJobRequest(name=parent.name))
    assert answer.state == Job.SUCCEEDED

    async def all_cancelled():
        return {child.state for child in await list_children(service, parent)} == {Job.CANCELLED}

    await eventually(all_cancelled)


@with_settings(jobs_lease_seconds=2)
async def test_deleting_a_running_expansion(service):
    """It is not found any more, and its jobs are cancelled."""
    parent = await create_expansion(service)
    expanded, deleted = asyncio.Event(), asyncio.Event()

    async def handle(held_job):
        if is_expansion(held_job):
            await held_job.renew(entries=entries(1, 2))
            expanded.set()
            await deleted.wait()
            assert (await held_job.renew()).renewal.cancel_requested
            await held_job.finish(cancelled=FinishRequest.Cancelled())

    async with run_worker(service, handle):
        await expanded.wait()
        await service.jobs.DeleteJob(DeleteJobRequest(name=parent.name))
        deleted.set()

        async def all_cancelled():
            return {child.state for child in await list_children(service, parent)} == {Job.CANCELLED}

        await eventually(all_cancelled)


async def test_retried_expansion_continues_where_it_was(service):
    """A retry starts after the entries that are dealt with; their jobs stay."""
    parent = await create_expansion(service, retry_policy={"max_attempts": 1})
    starts = []

    async def handle(held_job):
        if not is_expansion(held_job):
            return
        starts.append(held_job.lease.spec.expansion.start_position)
        if len(starts) == 1:
            await held_job.renew(entries=entries(1, 2))
            failure = error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "503")
            await held_job.finish(failed=FinishRequest.Failed(status=failure))
        else:
            await held_job.renew(entries=entries(3))
            await finish_expansion(held_job)

    async with run_worker(service, handle):
        assert (await wait_for_end(service, parent.name)).state == Job.FAILED
        await service.jobs.RetryJob(RetryJobRequest(name=parent.name))
        assert (await wait_for_end(service, parent.name)).state == Job.SUCCEEDED
    assert starts == [0, 2]
    assert len(await list_children(service, parent)) == 3


async def test_max_entries(service):
    """Entries beyond max_entries become no jobs, whatever a worker sends."""
    parent = await create_expansion(service, expansion=Expansion(max_entries=2))

    async def handle(held_job):
        if is_expansion(held_job):
            await held_job.renew(entries=entries(1, 2, 3))
            await finish_expansion(held_job)

    async with run_worker(service, handle):
        await wait_for_end(service, parent.name)
    assert len(await list_children(service, parent)) == 2


async def test_too_many_entries_at_once(service):
    """One renewal carries at most 500 entries."""
    request = RenewRequest(
        job=(await create_expansion(service)).name, epoch=1, entries=entries(*range(1, 502))
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.leases.Renew(request)
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
async def test_invalid_expansions(service, job, field):
    """An invalid expansion is rejected with the field's name, and nothing is stored."""
    job.url = "https://v.example/list"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.CreateJob(CreateJobRequest(job=job))
    assert field in failure.value.details()
    assert (await service.jobs.ListJobs(ListJobsRequest())).total_size == 0
