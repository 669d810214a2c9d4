"""Lives: what becomes of a job that was accepted, as its client will have it."""

from __future__ import annotations

import asyncio
import random
import uuid

import grpc
from google.protobuf import duration_pb2, field_mask_pb2
from tests.chaos.client import Caller, Refused
from tests.chaos.histories import ENDED
from tests.chaos.requested_jobs import MARK, Wish, in_seconds, priority

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job

_LOOK_SECONDS = 0.5
_LONGEST_STAY = duration_pb2.Duration(seconds=8 * 24 * 3600)


class Life:
    """One job, from its acceptance to its end, or to that of the load."""

    def __init__(self, caller: Caller, stranger: Caller, wish: Wish, over: asyncio.Event) -> None:
        self._caller, self._stranger, self._wish, self._over = caller, stranger, wish, over
        self._rng = random.Random(wish.request_id)

    async def run(self) -> None:
        """Live it."""
        rng = self._rng
        deeds = [self._cancel, self._delete_running, self._hold, self._update, self._pry, self._wait]
        deed = rng.choices(deeds, [14, 4, 12, 12, 4, 54])[0]
        await deed()
        ended = await self._until(*ENDED)
        if ended in (Job.FAILED, Job.CANCELLED) and rng.random() < 0.4:
            await self._retry()
            ended = await self._until(*ENDED)
        if ended is not None and rng.random() < 0.05:
            await self._delete()
        elif ended is not None and rng.random() < 0.05:
            await self._update()

    async def _wait(self) -> None:
        """Let it run."""

    async def _cancel(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, 2.5))
        asked = job_service_pb2.CancelJobRequest(name=self._wish.name)
        self._wish.cancelled = await self._caller.did("CancelJob", asked) or self._wish.cancelled

    async def _hold(self) -> None:
        """Pause it, and resume or cancel it after a while: also where the load is over."""
        await asyncio.sleep(self._rng.uniform(0, 2.5))
        if not await self._caller.did("PauseJob", job_service_pb2.PauseJobRequest(name=self._wish.name)):
            return
        await asyncio.sleep(self._rng.uniform(0, 2))
        if self._rng.random() < 0.2:
            await self._cancel()
            return
        self._wish.resumes += 1
        await self._caller.ask("ResumeJob", job_service_pb2.ResumeJobRequest(name=self._wish.name))

    async def _update(self) -> None:
        """Change what may be changed of it, and remember how that shows."""
        await asyncio.sleep(self._rng.uniform(0, 1.5))
        mark = str(uuid.UUID(int=self._rng.getrandbits(128)))
        job = Job(name=self._wish.name, labels={MARK: mark}, priority=priority(self._rng))
        job.ttl.CopyFrom(_LONGEST_STAY)
        path = self._rng.choice(("priority", "schedule_time", "ttl"))
        if path == "schedule_time":
            job.schedule_time.CopyFrom(in_seconds(self._rng.uniform(1, 3)))
        mask = field_mask_pb2.FieldMask(paths=["labels", path])
        asked = job_service_pb2.UpdateJobRequest(job=job, update_mask=mask)
        try:
            await self._caller.ask("UpdateJob", asked)
            self._wish.mark = mark
        except Refused as no:
            # Its time had passed when anybody heard of it, or the job is past such changes.
            late = path == "schedule_time" and no.code is grpc.StatusCode.INVALID_ARGUMENT
            if not late and no.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            self._wish.mark = "" if no.unsure else self._wish.mark

    async def _pry(self) -> None:
        """Another tenant looks at it, and cancels it: for it there is no such job."""
        for method, asked in (
            ("GetJob", job_service_pb2.GetJobRequest(name=self._wish.name)),
            ("CancelJob", job_service_pb2.CancelJobRequest(name=self._wish.name)),
        ):
            try:
                await self._stranger.ask(method, asked)
            except Refused as no:
                if no.code is not grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                raise AssertionError(f"another tenant's {method} was answered")

    async def _retry(self) -> None:
        self._wish.retries, self._wish.cancelled = self._wish.retries + 1, False
        name, request = self._wish.name, str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        if self._rng.random() < 0.3:
            many = job_service_pb2.BatchRetryJobsRequest(names=[name], request_id=request)
            await self._caller.ask("BatchRetryJobs", many)
        else:
            one = job_service_pb2.RetryJobRequest(name=name, request_id=request)
            await self._caller.ask("RetryJob", one)

    async def _delete(self) -> None:
        self._wish.deleted = True
        asked = job_service_pb2.DeleteJobRequest(name=self._wish.name, allow_missing=True)
        await self._caller.ask("DeleteJob", asked)

    async def _delete_running(self) -> None:
        """Delete it as soon as a worker has it, or it has ended before that."""
        await self._until(Job.RUNNING, *ENDED)
        await self._delete()

    async def _until(self, *states: Job.State.ValueType) -> Job.State.ValueType | None:
        """Which of *states* it reached; None where it is deleted, or the load is over before."""
        asked = job_service_pb2.GetJobRequest(name=self._wish.name)
        while not self._over.is_set() and not self._wish.deleted:
            job: Job = await self._caller.ask("GetJob", asked)
            if job.state in states:
                return job.state
            await asyncio.sleep(_LOOK_SECONDS)
        return None
