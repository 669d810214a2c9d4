"""Calls that many tests make to a running jobs service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import grpc
import pytest
from tests.jobs.conftest import JobsService

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import (
    CreateJobRequest,
    GetJobRequest,
    WatchJobRequest,
    WatchJobResponse,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import error_from_rpc

_TERMINAL_STATES = {Job.SUCCEEDED, Job.FAILED, Job.CANCELLED}
URL = "https://videos.example/watch?v=1"


async def create_job(service: JobsService, **fields: Any) -> Job:
    job: Job = await service.jobs.CreateJob(CreateJobRequest(job=Job(url=URL, **fields)))
    return job


async def watch_to_end(service: JobsService, name: str, **fields: Any) -> list[WatchJobResponse]:
    """Return all messages of a watch of the job."""
    async with asyncio.timeout(15):
        return [message async for message in service.jobs.WatchJob(WatchJobRequest(name=name, **fields))]


async def wait_for_end(service: JobsService, name: str) -> Job:
    """Return the job when it has ended; the jobs of an expansion may go on."""
    call = service.jobs.WatchJob(WatchJobRequest(name=name))
    async with asyncio.timeout(15):
        async for message in call:
            job = message.snapshot.job
            if message.snapshot.terminal:
                return job
            if {job.state, message.state_change.state} & _TERMINAL_STATES:
                break
        call.cancel()
        ended: Job = await service.jobs.GetJob(GetJobRequest(name=name))
        return ended


def state_changes(messages: Sequence[WatchJobResponse]) -> list[int]:
    """Return the states that the messages of a watch report, without those of snapshots."""
    return [message.state_change.state for message in messages if message.HasField("state_change")]


async def error_of(call: Awaitable[object]) -> ReelhaulError:
    """Return the error of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return error_from_rpc(failure.value, "jobs")


def reason_of(failure: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> str:
    """Return the name of the reason of a failed call."""
    return ErrorReason.Name(error_from_rpc(failure.value, "jobs").reason)
