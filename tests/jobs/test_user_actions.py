"""Pause, resume and update a job, over real gRPC and NATS."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from tests.jobs.calls import URL, create_job, reason_of, wait_for_end
from tests.jobs.conftest import TIMEOUT, eventually
from tests.jobs.fake_worker import run_worker

from reelhaul.jobs.v1.job_pb2 import Attempt, Job, Wait
from reelhaul.jobs.v1.job_service_pb2 import (
    CancelJobRequest,
    DeleteJobRequest,
    GetJobRequest,
    ListAttemptsRequest,
    PauseJobRequest,
    ResumeJobRequest,
    UpdateJobRequest,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2, work_pb2
from reelhaul.work.v1.lease_service_pb2 import RenewRequest
from reelhaul_jobs.model.retries import error_status


def update(name: str, *paths: str, **fields: object) -> UpdateJobRequest:
    return UpdateJobRequest(job=Job(name=name, **fields), update_mask=field_mask_pb2.FieldMask(paths=paths))


async def get(service, name: str) -> Job:
    return await service.jobs.GetJob(GetJobRequest(name=name))


async def test_pause_and_resume_queued(service):
    """A paused job is not leased and says why it waits; resumed, it runs."""
    job = await create_job(service)
    paused = await service.jobs.PauseJob(PauseJobRequest(name=job.name))
    assert (paused.state, paused.wait.reason) == (Job.PAUSED, Wait.PAUSED)
    again = await service.jobs.PauseJob(PauseJobRequest(name=job.name))
    assert paused.revision == again.revision

    async def work(held):
        await held.succeed()

    other = await create_job(service)
    async with run_worker(service, work):
        await wait_for_end(service, other.name)
        assert (await get(service, job.name)).state == Job.PAUSED
        resumed = await service.jobs.ResumeJob(ResumeJobRequest(name=job.name))
        assert resumed.state == Job.QUEUED
        assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED


async def test_pause_running(service):
    """A running job is PAUSED at once; its worker gets a hint and is refused, and no attempt is charged."""
    hints = await service.nats.subscribe("control.*")
    holding, refused = asyncio.Event(), asyncio.Event()
    runs = []

    async def work(held):
        runs.append(held)
        if len(runs) > 1:
            await held.succeed()
            return
        holding.set()
        work_pb2.StopHint.FromString((await hints.next_msg(TIMEOUT)).data)
        assert (await held.renew()).refusal.reason == lease_pb2.Refusal.PAUSED
        late = await held.succeed()
        assert late.refusal.reason == lease_pb2.Refusal.PAUSED
        assert not late.refusal.HasField("retry_delay")
        refused.set()

    job = await create_job(service)
    async with run_worker(service, work):
        await asyncio.wait_for(holding.wait(), TIMEOUT)
        assert (await service.jobs.PauseJob(PauseJobRequest(name=job.name))).state == Job.PAUSED
        await asyncio.wait_for(refused.wait(), TIMEOUT)
        await service.jobs.ResumeJob(ResumeJobRequest(name=job.name))
        last = await wait_for_end(service, job.name)
    assert (last.state, last.attempt_count) == (Job.SUCCEEDED, 1)
    attempts = (await service.jobs.ListAttempts(ListAttemptsRequest(parent=job.name))).attempts
    assert [attempt.state for attempt in attempts] == [Attempt.SUCCEEDED, Attempt.RELEASED]
    assert (await runs[0].renew()).refusal.reason == lease_pb2.Refusal.LOST


@pytest.mark.parametrize("action", ["cancel", "delete"])
async def test_workers_hear_of_the_end_of_a_waiting_job(service, action):
    """When a job that has run before is cancelled or deleted, all workers hear that it has ended.

    What they keep for its next attempt is of no use. A worker that missed it learns it by asking.
    """
    hints = await service.nats.subscribe("control.*")
    released = asyncio.Event()

    async def work(held):
        response = await held.finish(released={"retry_delay": duration_pb2.Duration(seconds=600)})
        assert not response.receipt.job_ended
        assert not (await held.renew()).refusal.job_ended
        released.set()

    job = await create_job(service)
    async with run_worker(service, work):
        await asyncio.wait_for(released.wait(), TIMEOUT)
    if action == "cancel":
        await service.jobs.CancelJob(CancelJobRequest(name=job.name))
    else:
        await service.jobs.DeleteJob(DeleteJobRequest(name=job.name))
    hint = work_pb2.StopHint.FromString((await hints.next_msg(TIMEOUT)).data)
    assert (hint.job, hint.job_ended) == (job.name, True)
    asked = await service.leases.Renew(RenewRequest(job=job.name, epoch=0))
    assert asked.refusal.job_ended


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
async def test_receipt_of_the_last_outcome(service, outcome):
    """The receipt says that the job has ended, and so does every later refusal."""
    seen = []

    async def work(held):
        if outcome == "succeeded":
            response = await held.succeed()
        elif outcome == "failed":
            status = error_status(ErrorReason.MEDIA_NOT_FOUND, "it is gone")
            response = await held.finish(failed={"status": status})
        else:
            await service.jobs.CancelJob(CancelJobRequest(name=held.job))
            response = await held.finish(cancelled={})
        seen.extend([response.receipt.job_ended, (await held.renew()).refusal.job_ended])

    job = await create_job(service)
    async with run_worker(service, work):
        await wait_for_end(service, job.name)
        await eventually(lambda: len(seen) == 2)
    assert seen == [True, True]


async def test_pause_ended(service):
    """A job that has ended can be neither paused nor resumed; a paused one can be cancelled."""
    job = await create_job(service)
    await service.jobs.PauseJob(PauseJobRequest(name=job.name))
    assert (await service.jobs.CancelJob(CancelJobRequest(name=job.name))).state == Job.CANCELLED
    for call in (
        service.jobs.PauseJob(PauseJobRequest(name=job.name)),
        service.jobs.ResumeJob(ResumeJobRequest(name=job.name)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert reason_of(failure) == "STATE_CONFLICT"


async def test_update_labels_and_priority(service):
    """Only the fields that the mask names are changed, and only if the etag matches."""
    job = await create_job(service, labels={"a": "1"}, priority=Job.LOW)
    changed = await service.jobs.UpdateJob(
        update(job.name, "labels", "priority", labels={"b": "2"}, priority=Job.HIGH, etag=job.etag)
    )
    assert (dict(changed.labels), changed.priority) == ({"b": "2"}, Job.HIGH)
    assert changed.revision > job.revision
    repeated = await service.jobs.UpdateJob(update(job.name, "labels", labels={"b": "2"}))
    assert changed.revision == repeated.revision
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.UpdateJob(update(job.name, "labels", labels={}, etag='"999"'))
    assert reason_of(failure) == "ETAG_MISMATCH"


async def test_update_of_immutable_fields(service):
    """The URL, an unknown field and an invalid label are rejected; nothing is changed."""
    job = await create_job(service)
    for request in (
        update(job.name, "url", url=f"{URL}2"),
        update(job.name, "nonsense"),
        update(job.name, "labels", labels={"Not a key": ""}),
        UpdateJobRequest(job=Job(name=job.name, url=f"{URL}2")),
        update(job.name, "ttl", ttl=duration_pb2.Duration(seconds=0)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await service.jobs.UpdateJob(request)
        assert reason_of(failure) == "FIELD_INVALID"
    assert (await get(service, job.name)).url == URL


async def test_update_schedule_time(service):
    """A queued job can be postponed, and its schedule_time cleared; its old work item is refused."""
    job = await create_job(service)
    await eventually(lambda: _published(service))
    later = Job(name=job.name)
    later.schedule_time.FromSeconds(int(time.time()) + 3600)
    postponed = await service.jobs.UpdateJob(UpdateJobRequest(job=later))
    assert postponed.wait.reason == Wait.SCHEDULED

    async def work(held):
        await held.succeed()

    async with run_worker(service, work) as worker:
        await eventually(lambda: worker.refusals)
        assert worker.refusals == [lease_pb2.Refusal.SUPERSEDED]
        await service.jobs.UpdateJob(update(job.name, "schedule_time"))
        assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED


async def test_update_schedule_time_between_attempts(service):
    """A RETRYING job can be postponed further, but does not start before its back-off ends."""

    async def work(held):
        await held.finish(failed={"status": error_status(ErrorReason.UPSTREAM_UNAVAILABLE, "no answer")})

    job = await create_job(service)
    async with run_worker(service, work):
        await eventually(lambda: _in_state(service, job.name, Job.RETRYING))
    backoff = (await get(service, job.name)).next_attempt_time
    later = Job(name=job.name)
    later.schedule_time.FromSeconds(backoff.seconds + 3600)
    postponed = await service.jobs.UpdateJob(UpdateJobRequest(job=later))
    assert postponed.next_attempt_time == later.schedule_time
    assert postponed.wait.reason == Wait.BACKOFF


async def _in_state(service, name: str, state: int) -> bool:
    return (await get(service, name)).state == state


async def _published(service) -> bool:
    return (await service.nats.jetstream().stream_info("WORK")).state.messages > 0


async def test_update_of_an_ended_job(service):
    """Of a job that has ended, only labels and expiration can be changed."""

    async def work(held):
        await held.succeed()

    job = await create_job(service)
    async with run_worker(service, work):
        done = await wait_for_end(service, job.name)
    updated = await service.jobs.UpdateJob(update(job.name, "ttl", ttl=duration_pb2.Duration(seconds=3600)))
    assert updated.expire_time.ToDatetime() > done.end_time.ToDatetime()
    assert updated.expire_time.seconds == done.end_time.seconds + 3600
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await service.jobs.UpdateJob(update(job.name, "priority", priority=Job.HIGH))
    assert reason_of(failure) == "STATE_CONFLICT"
