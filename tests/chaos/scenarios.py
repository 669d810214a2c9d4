"""Scenarios: what a client does with an accepted job until the job ends."""

from __future__ import annotations

import asyncio
import random
import uuid

import grpc
from google.protobuf import duration_pb2, field_mask_pb2
from tests.chaos.audit import TERMINAL_STATES
from tests.chaos.client import Refused, TenantClient
from tests.chaos.requested_jobs import UPDATE_LABEL, RequestedJob, draw_priority, timestamp_in

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job

_POLL_SECONDS = 0.5
_LONG_TTL = duration_pb2.Duration(seconds=8 * 24 * 3600)


class JobScenario:
    """A random scenario for one job, from its acceptance to its end or to the end of the load."""

    def __init__(
        self, client: TenantClient, other_tenant: TenantClient, job: RequestedJob, load_ended: asyncio.Event
    ) -> None:
        self._client, self._other_tenant, self._job = client, other_tenant, job
        self._load_ended = load_ended
        self._rng = random.Random(job.request_id)

    async def run(self) -> None:
        """Do one random action, and at times retry, delete or update the job after its end."""
        rng = self._rng
        actions = [
            self._cancel,
            self._delete_running,
            self._pause_and_resume,
            self._update,
            self._access_as_other_tenant,
            self._do_nothing,
        ]
        action = rng.choices(actions, [14, 4, 12, 12, 4, 54])[0]
        await action()
        state = await self._wait_for(*TERMINAL_STATES)
        if state in (Job.FAILED, Job.CANCELLED) and rng.random() < 0.4:
            await self._retry()
            state = await self._wait_for(*TERMINAL_STATES)
        if state is not None and rng.random() < 0.05:
            await self._delete()
        elif state is not None and rng.random() < 0.05:
            await self._update()

    async def _do_nothing(self) -> None:
        """Let the job run."""

    async def _cancel(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, 2.5))
        request = job_service_pb2.CancelJobRequest(name=self._job.name)
        self._job.cancelled = await self._client.try_call("CancelJob", request) or self._job.cancelled

    async def _pause_and_resume(self) -> None:
        """Pause the job, then resume or cancel it, also when the load has ended."""
        await asyncio.sleep(self._rng.uniform(0, 2.5))
        pause = job_service_pb2.PauseJobRequest(name=self._job.name)
        if not await self._client.try_call("PauseJob", pause):
            return
        await asyncio.sleep(self._rng.uniform(0, 2))
        if self._rng.random() < 0.2:
            await self._cancel()
            return
        self._job.resumes += 1
        await self._client.call("ResumeJob", job_service_pb2.ResumeJobRequest(name=self._job.name))

    async def _update(self) -> None:
        """Update the job's label and another field, and record the label if the update is acknowledged."""
        await asyncio.sleep(self._rng.uniform(0, 1.5))
        label = str(uuid.UUID(int=self._rng.getrandbits(128)))
        job = Job(name=self._job.name, labels={UPDATE_LABEL: label}, priority=draw_priority(self._rng))
        job.ttl.CopyFrom(_LONG_TTL)
        path = self._rng.choice(("priority", "schedule_time", "ttl"))
        if path == "schedule_time":
            job.schedule_time.CopyFrom(timestamp_in(self._rng.uniform(1, 3)))
        mask = field_mask_pb2.FieldMask(paths=["labels", path])
        request = job_service_pb2.UpdateJobRequest(job=job, update_mask=mask)
        try:
            await self._client.call("UpdateJob", request)
            self._job.update_label = label
        except Refused as refusal:
            # The schedule_time had passed when the call arrived, or the job's state forbids the update.
            overdue = path == "schedule_time" and refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            if not overdue and refusal.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            # An earlier attempt of the call may have taken effect: the label is unknown.
            self._job.update_label = "" if refusal.repeated else self._job.update_label

    async def _access_as_other_tenant(self) -> None:
        """Get and cancel the job as another tenant, for whom it must not exist."""
        for method, request in (
            ("GetJob", job_service_pb2.GetJobRequest(name=self._job.name)),
            ("CancelJob", job_service_pb2.CancelJobRequest(name=self._job.name)),
        ):
            try:
                await self._other_tenant.call(method, request)
            except Refused as refusal:
                if refusal.code is not grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                raise AssertionError(f"{method} by another tenant succeeded")

    async def _retry(self) -> None:
        self._job.retries, self._job.cancelled = self._job.retries + 1, False
        name, request_id = self._job.name, str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        if self._rng.random() < 0.3:
            batch = job_service_pb2.BatchRetryJobsRequest(names=[name], request_id=request_id)
            await self._client.call("BatchRetryJobs", batch)
        else:
            request = job_service_pb2.RetryJobRequest(name=name, request_id=request_id)
            await self._client.call("RetryJob", request)

    async def _delete(self) -> None:
        self._job.deleted = True
        request = job_service_pb2.DeleteJobRequest(name=self._job.name, allow_missing=True)
        await self._client.call("DeleteJob", request)

    async def _delete_running(self) -> None:
        """Delete the job as soon as it runs or has ended."""
        await self._wait_for(Job.RUNNING, *TERMINAL_STATES)
        await self._delete()

    async def _wait_for(self, *states: Job.State.ValueType) -> Job.State.ValueType | None:
        """Return the first of *states* that the job reaches; None if it is deleted or the load ends first."""
        request = job_service_pb2.GetJobRequest(name=self._job.name)
        while not self._load_ended.is_set() and not self._job.deleted:
            job: Job = await self._client.call("GetJob", request)
            if job.state in states:
                return job.state
            await asyncio.sleep(_POLL_SECONDS)
        return None
