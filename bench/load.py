"""What callers ask of the jobs service under measure."""

from __future__ import annotations

import asyncio
import itertools
import time

from reelhaul.jobs.v1 import job_pb2, job_service_pb2_grpc
from reelhaul.jobs.v1.job_service_pb2 import BatchCreateJobsRequest, CreateJobRequest
from reelhaul.type.v1 import media_pb2

# More than one, or the limit of one site would be measured.
_SITES = 8

_numbers = itertools.count()


def request() -> CreateJobRequest:
    """A job like many others."""
    spec = media_pb2.FormatSpec(max_height=1080)
    number = next(_numbers)
    url = f"https://site-{number % _SITES}.example/watch?v={number}"
    return CreateJobRequest(job=job_pb2.Job(url=url, format=spec))


async def create(
    jobs: job_service_pb2_grpc.JobServiceStub, number: int, concurrency: int = 64
) -> tuple[float, float]:
    """Create *number* jobs by single calls: when that began and when the last one was answered."""
    left = iter([request() for _ in range(number)])

    async def caller() -> None:
        for asked in left:
            await jobs.CreateJob(asked)

    begun = time.time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return begun, time.time()


async def create_batches(
    jobs: job_service_pb2_grpc.JobServiceStub, number: int, size: int = 100, concurrency: int = 4
) -> tuple[float, float]:
    """Create *number* jobs by batches of *size*: when that began and when the last one was answered."""
    count = number // size
    left = iter([BatchCreateJobsRequest(requests=[request() for _ in range(size)]) for _ in range(count)])

    async def caller() -> None:
        for asked in left:
            await jobs.BatchCreateJobs(asked)

    begun = time.time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return begun, time.time()
