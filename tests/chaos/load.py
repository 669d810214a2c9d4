"""Load: clients of several tenants that create jobs in every supported way and record the responses."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio
from tests.chaos.audit import TERMINAL_STATES
from tests.chaos.client import Refused, TenantClient
from tests.chaos.requested_jobs import (
    RequestedJob,
    draw_job,
    is_overdue,
    new_request_id,
    timestamp_in,
    to_proto,
)
from tests.chaos.scenarios import JobScenario
from tests.chaos.videos import VideoSource

from reelhaul.jobs.v1 import job_service_pb2, schedule_pb2, schedule_service_pb2
from reelhaul.jobs.v1.job_pb2 import Job

TENANTS = ("acme", "brook", "crane")

# A call that timed out may still be under way this long; then it is sent once more to learn its outcome.
_LATE_CALL_SECONDS = 8.0
# Does not fire during a run.
_YEARLY = "0 0 1 1 *"


class LoadGenerator:
    """Runs *client_count* clients at once, each with one job, batch or schedule after the other."""

    def __init__(
        self,
        replicas: Sequence[aio.Channel],
        videos: VideoSource,
        seed: int,
        client_count: int,
        *,
        schedules_jobs: bool = True,
    ) -> None:
        """*schedules_jobs*: whether some get a schedule_time; not where the service's clock may be ahead."""
        self._scheduled_share = 0.15 if schedules_jobs else 0.0
        self._videos = videos
        self._tenants = [TenantClient(replicas, tenant) for tenant in TENANTS]
        self._rngs = [random.Random(f"{seed}/client/{n}") for n in range(client_count)]
        self._ended = asyncio.Event()
        self.jobs: list[RequestedJob] = []
        #: Responses that must not occur, each as text with the job that it is about.
        self.wrong_responses: list[str] = []

    @property
    def successes(self) -> Counter[str]:
        """Number of successful calls by method."""
        return sum((tenant.successes for tenant in self._tenants), Counter())

    async def run(self) -> None:
        """Create jobs until ``stop``; return when every call is answered."""
        await asyncio.gather(*(self._run_client(number, rng) for number, rng in enumerate(self._rngs)))

    async def run_one_job(self) -> float:
        """Create a job and wait until it has ended; return the seconds that this took."""
        client, rng, begin = self._tenants[0], random.Random(len(self.jobs)), time.monotonic()
        job = RequestedJob(new_request_id(rng), self._videos.create(rng), client.tenant)
        self.jobs.append(job)
        # With many attempts: other faults may hit it.
        proto = to_proto(job, rng, scheduled=0)
        proto.priority = Job.HIGH
        create = job_service_pb2.CreateJobRequest(job=proto, request_id=job.request_id)
        job.names.add((await client.call("CreateJob", create)).name)
        get = job_service_pb2.GetJobRequest(name=job.name)
        while True:
            if (await client.call("GetJob", get)).state in TERMINAL_STATES:
                return time.monotonic() - begin
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """Create no more jobs."""
        self._ended.set()

    async def _run_client(self, number: int, rng: random.Random) -> None:
        client = self._tenants[number % len(TENANTS)]
        actions = [
            self._create_batch,
            *[self._create_job] * 4,
            self._create_schedule,
            *[self._create_job] * 3,
            self._create_batch,
        ]
        # Clients begin at different actions, so that a short run covers all of them.
        indexes = count(number)
        while not self._ended.is_set():
            action = actions[next(indexes) % len(actions)]
            size = rng.randint(2, 6) if action == self._create_batch else 1
            jobs = [draw_job(rng, self._videos, client.tenant) for _ in range(size)]
            self.jobs += jobs
            try:
                await action(client, jobs, rng)
            except (Refused, AssertionError) as error:
                self.wrong_responses.append(f"{jobs[0].id or jobs[0].request_id}: {error}")

    async def _create_job(self, client: TenantClient, jobs: list[RequestedJob], rng: random.Random) -> None:
        (job,) = jobs
        proto = to_proto(job, rng, scheduled=self._scheduled_share)
        request = job_service_pb2.CreateJobRequest(job=proto, request_id=job.request_id)
        for response in await _call(client, "CreateJob", request, [request.job], rng):
            job.names.add(response.name)
        job.refused = not job.names
        await self._run_scenarios(client, jobs)

    async def _create_batch(self, client: TenantClient, jobs: list[RequestedJob], rng: random.Random) -> None:
        """Create *jobs* in one batch, at times with an invalid one among them."""
        protos = [to_proto(job, rng, scheduled=self._scheduled_share) for job in jobs]
        if rng.random() < 2 * self._scheduled_share:
            protos[0].schedule_time.CopyFrom(timestamp_in(rng.uniform(0.2, 1)))
        requests = [job_service_pb2.CreateJobRequest(job=proto) for proto in protos]
        invalid_index = rng.randrange(len(requests) + 1) if rng.random() < 0.3 else -1
        if invalid_index >= 0:
            requests.insert(
                invalid_index, job_service_pb2.CreateJobRequest(job=Job(url="file:///etc/passwd"))
            )
        batch = job_service_pb2.BatchCreateJobsRequest(
            requests=requests, request_id=jobs[0].request_id, return_partial_success=invalid_index >= 0
        )
        for response in await _call(client, "BatchCreateJobs", batch, protos, rng):
            _record_batch(response, jobs, protos, invalid_index)
        for job in jobs:
            job.refused = not job.names
        await self._run_scenarios(client, jobs)

    async def _create_schedule(
        self, client: TenantClient, jobs: list[RequestedJob], rng: random.Random
    ) -> None:
        """Create a schedule, at times pause it, run it by RunSchedule, and delete it."""
        (job,) = jobs
        schedule = schedule_pb2.Schedule(cron=_YEARLY, job_template=to_proto(job, rng, scheduled=0))
        create = schedule_service_pb2.CreateScheduleRequest(schedule=schedule, request_id=new_request_id(rng))
        (created, *repeated) = await _call(client, "CreateSchedule", create, [], rng)
        assert all(other.name == created.name for other in repeated), "one request_id made two schedules"
        if rng.random() < 0.3:
            pause = schedule_service_pb2.PauseScheduleRequest(name=created.name)
            await client.call("PauseSchedule", pause)
        run = schedule_service_pb2.RunScheduleRequest(name=created.name, request_id=job.request_id)
        for response in await _call(client, "RunSchedule", run, [], rng):
            job.names.add(response.name)
        await self._run_scenarios(client, jobs)
        try:
            delete = schedule_service_pb2.DeleteScheduleRequest(name=created.name)
            await client.call("DeleteSchedule", delete)
        except Refused as refusal:
            if refusal.code is not grpc.StatusCode.NOT_FOUND or not refusal.repeated:
                raise

    async def _run_scenarios(self, client: TenantClient, jobs: list[RequestedJob]) -> None:
        other_tenant = next(other for other in self._tenants if other is not client)
        scenarios = [JobScenario(client, other_tenant, job, self._ended).run() for job in jobs if job.names]
        for result in await asyncio.gather(*scenarios, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


async def _call(
    client: TenantClient, method: str, request: Message, jobs: Sequence[Job], rng: random.Random
) -> list[Any]:
    """Call *method*, at times twice at once, and return the responses.

    Returns nothing if the schedule_time of one of *jobs* had passed when the call arrived. If the call was
    repeated before that, an earlier attempt may still be under way: the call is then sent once more.
    """
    times = 1 + (rng.random() < 0.15)
    responses, repeated = await _gather([client.call(method, request) for _ in range(times)], jobs)
    if not responses and repeated:
        await asyncio.sleep(_LATE_CALL_SECONDS)
        responses, _ = await _gather([client.call(method, request)], jobs)
    return responses


async def _gather(calls: Sequence[Awaitable[Any]], jobs: Sequence[Job]) -> tuple[list[Any], bool]:
    """Return the responses of *calls*, and whether a call refused as overdue was repeated before."""
    responses, repeated = list[Any](), False
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, Refused) and _is_overdue_refusal(result, jobs):
            repeated |= result.repeated
        elif isinstance(result, BaseException):
            raise result
        else:
            responses.append(result)
    return responses, repeated


def _is_overdue_refusal(refusal: Refused, jobs: Sequence[Job]) -> bool:
    """Return whether *refusal* is right: the schedule_time of one of *jobs* has passed."""
    return refusal.code is grpc.StatusCode.INVALID_ARGUMENT and any(is_overdue(job) for job in jobs)


def _record_batch(
    response: job_service_pb2.BatchCreateJobsResponse,
    jobs: list[RequestedJob],
    protos: list[Job],
    invalid_index: int,
) -> None:
    """Record the name of each created job. Only the invalid request and overdue ones may have failed."""
    failed = set(response.failed_requests)
    indexes = [index for index in range(len(jobs) + (invalid_index >= 0)) if index != invalid_index]
    overdue = {
        index for index, proto in zip(indexes, protos, strict=True) if index in failed and is_overdue(proto)
    }
    wrong = failed - overdue - {invalid_index}
    assert not wrong, f"a batch failed at {sorted(wrong)} without a reason"
    created = [job for job, index in zip(jobs, indexes, strict=True) if index not in overdue]
    assert len(created) == len(response.jobs), f"a batch of {len(created)} made {len(response.jobs)} jobs"
    for job, proto in zip(created, response.jobs, strict=True):
        job.names.add(proto.name)
