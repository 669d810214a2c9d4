"""StopRecording: requested once, delivered until it is done, whichever process dies meanwhile."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from tests.jobs.calls import create_job, reason_of, wait_for_end
from tests.jobs.conftest import TIMEOUT, run_service, with_settings
from tests.jobs.fake_worker import claim_request, run_worker, succeeded
from tests.jobs.test_user_actions import get

from reelhaul.jobs.v1.job_pb2 import Job, RetryPolicy
from reelhaul.jobs.v1.job_service_pb2 import (
    CancelJobRequest,
    PauseJobRequest,
    RetryJobRequest,
    StopRecordingRequest,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import work_pb2
from reelhaul.work.v1.lease_service_pb2 import FinishRequest, RenewRequest
from reelhaul_jobs.model.retries import error_status

RECORDING = Progress(stage=Progress.RECORDING, downloaded_bytes=1000)


async def stop(service, name: str, **fields: str) -> Job:
    return await service.jobs.StopRecording(StopRecordingRequest(name=name, **fields))


async def refusal_of(service, name: str) -> tuple[str, str]:
    """Return reason and text of the error of StopRecording."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stop(service, name)
    return reason_of(failure), failure.value.details() or ""


async def test_stop_recording(service):
    """The worker gets a hint, and every renewal asks it to stop; the job succeeds with what was recorded."""
    hints = await service.nats.subscribe("control.*")
    holding, done = asyncio.Event(), asyncio.Event()

    async def work(held):
        assert not held.lease.spec.recording_stopped
        assert not (await held.renew(progress=RECORDING)).renewal.stop_recording
        holding.set()
        hint = work_pb2.StopHint.FromString((await hints.next_msg(TIMEOUT)).data)
        assert (held.job, held.lease.epoch) == (hint.job, hint.epoch)
        for _ in range(2):
            renewal = (await held.renew(progress=RECORDING)).renewal
            assert (renewal.stop_recording, renewal.cancel_requested) == (True, False)
        outcome = succeeded(ArtifactInfo(name=f"artifacts/{uuid.uuid4()}", kind=ArtifactInfo.VIDEO))
        outcome.warnings.add(reason=MediaWarning.RECORDING_STOPPED, message="the recording was stopped")
        await held.finish(succeeded=outcome)
        done.set()

    job = await create_job(service)
    async with run_worker(service, work):
        await asyncio.wait_for(holding.wait(), TIMEOUT)
        stopped = await stop(service, job.name)
        assert (stopped.state, stopped.HasField("recording_stop_time")) == (Job.RUNNING, True)
        assert (await stop(service, job.name)).recording_stop_time == stopped.recording_stop_time
        await asyncio.wait_for(done.wait(), TIMEOUT)
    last = await wait_for_end(service, job.name)
    assert (last.state, last.recording_stop_time) == (Job.SUCCEEDED, stopped.recording_stop_time)
    assert [warning.reason for warning in last.warnings] == [MediaWarning.RECORDING_STOPPED]
    assert (await stop(service, job.name)).revision == last.revision


async def test_stop_recording_of_other_jobs(service):
    """A job that waits, is paused or downloads is not recording: the error says so, and what to call."""
    job = await create_job(service)
    reason, text = await refusal_of(service, job.name)
    assert (reason, "QUEUED and not recording" in text, "CancelJob" in text) == ("STATE_CONFLICT", True, True)
    await service.jobs.PauseJob(PauseJobRequest(name=job.name))
    assert "PAUSED and not recording" in (await refusal_of(service, job.name))[1]
    await service.jobs.CancelJob(CancelJobRequest(name=job.name))
    assert "is CANCELLED" in (await refusal_of(service, job.name))[1]

    busy = await create_job(service)
    held = (await service.leases.Claim(claim_request(work_pb2.WorkItem(job=busy.name, attempt=1), "w"))).lease
    for stage in (Progress.PROBING, Progress.DOWNLOADING):
        await service.leases.Renew(
            RenewRequest(job=busy.name, epoch=held.epoch, progress=Progress(stage=stage))
        )
        assert "RUNNING and not recording" in (await refusal_of(service, busy.name))[1]
    assert not (await get(service, busy.name)).HasField("recording_stop_time")


async def test_stop_recording_errors(service):
    """A job that does not exist is not found, and a stale etag changes nothing."""
    assert (await refusal_of(service, f"jobs/{uuid.uuid4()}"))[0] == "RESOURCE_NOT_FOUND"
    job = await create_job(service)
    held = (await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "w"))).lease
    await service.leases.Renew(RenewRequest(job=job.name, epoch=held.epoch, progress=RECORDING))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stop(service, job.name, etag=job.etag)
    assert reason_of(failure) == "ETAG_MISMATCH"


async def test_request_survives_a_restart(settings):
    """A service that was started after the request delivers it as well."""
    async with run_service(settings) as service:
        job = await create_job(service)
        held = (
            await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "w"))
        ).lease
        renew = RenewRequest(job=job.name, epoch=held.epoch, progress=RECORDING)
        await service.leases.Renew(renew)
        await stop(service, job.name)
    async with run_service(settings) as service:
        assert (await service.leases.Renew(renew)).renewal.stop_recording


@with_settings(jobs_lease_seconds=2)
async def test_request_survives_the_worker(service):
    """After its worker is lost, the next one is told at once; a repeated request changes nothing."""
    job = await create_job(service)
    lost, requested = asyncio.Event(), list[bool]()

    async def work(held):
        requested.append(held.lease.spec.recording_stopped)
        if len(requested) == 1:
            await held.renew(progress=RECORDING)
            await stop(service, job.name)
            lost.set()
            return
        assert (await stop(service, job.name)).state == Job.RUNNING
        await held.succeed()

    async with run_worker(service, work):
        await asyncio.wait_for(lost.wait(), TIMEOUT)
        assert (await wait_for_end(service, job.name)).state == Job.SUCCEEDED
    assert requested == [False, True]


async def test_retry_clears_the_request(service):
    """A job that is retried after its recording was lost records in full again."""
    job = await create_job(service, retry_policy=RetryPolicy(max_attempts=1))
    held = (await service.leases.Claim(claim_request(work_pb2.WorkItem(job=job.name, attempt=1), "w"))).lease
    await service.leases.Renew(RenewRequest(job=job.name, epoch=held.epoch, progress=RECORDING))
    await stop(service, job.name)
    failed = FinishRequest.Failed(status=error_status(ErrorReason.RECORDING_LOST, "lost"))
    await service.leases.Finish(FinishRequest(job=job.name, epoch=held.epoch, failed=failed))
    assert (await get(service, job.name)).state == Job.FAILED
    again = await service.jobs.RetryJob(RetryJobRequest(name=job.name))
    assert (again.state, again.HasField("recording_stop_time")) == (Job.QUEUED, False)
