"""Requests to the jobs service: jobs that are created at once, one by one or in batches."""

from __future__ import annotations

import asyncio
import itertools
import time
from functools import partial

from reelhaul.jobs.v1 import job_pb2, job_service_pb2_grpc
from reelhaul.jobs.v1.job_service_pb2 import BatchCreateJobsRequest, CreateJobRequest
from reelhaul.type.v1 import media_pb2

# Several sites, so that the limit of one site is not what is measured.
_SITES = 8

_numbers = itertools.count()


class JobCalls:
    """The methods of JobService that benchmarks call, with *key* if there is one."""

    def __init__(self, stub: job_service_pb2_grpc.JobServiceStub, key: str) -> None:
        metadata = (("authorization", f"Bearer {key}"),) if key else None
        self.GetJob = partial(stub.GetJob, metadata=metadata)
        self.CreateJob = partial(stub.CreateJob, metadata=metadata)
        self.ListJobs = partial(stub.ListJobs, metadata=metadata)
        self.BatchCreateJobs = partial(stub.BatchCreateJobs, metadata=metadata)


def new_request() -> CreateJobRequest:
    """Return a request for a typical job with a new URL."""
    spec = media_pb2.FormatSpec(max_height=1080)
    number = next(_numbers)
    url = f"https://site-{number % _SITES}.example/watch?v={number}"
    return CreateJobRequest(job=job_pb2.Job(url=url, format=spec))


def new_scheduled_request() -> CreateJobRequest:
    """Return a request for a job that is due in 300 days."""
    request = new_request()
    request.job.schedule_time.FromSeconds(int(time.time()) + 300 * 86_400)
    return request


async def create_jobs(jobs: JobCalls, number: int, concurrency: int = 64) -> tuple[float, float]:
    """Create *number* jobs by single calls; return the times of the first call and of the last response."""
    requests = iter([new_request() for _ in range(number)])

    async def call() -> None:
        for request in requests:
            await jobs.CreateJob(request)

    begin = time.time()
    await asyncio.gather(*(call() for _ in range(concurrency)))
    return begin, time.time()


async def create_batches(
    jobs: JobCalls, number: int, size: int = 100, concurrency: int = 4
) -> tuple[float, float]:
    """Create *number* jobs in batches of *size*; return the times of the first call and last response."""
    batches = iter(
        [BatchCreateJobsRequest(requests=[new_request() for _ in range(size)]) for _ in range(number // size)]
    )

    async def call() -> None:
        for batch in batches:
            await jobs.BatchCreateJobs(batch)

    begin = time.time()
    await asyncio.gather(*(call() for _ in range(concurrency)))
    return begin, time.time()
