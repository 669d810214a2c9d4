"""Our side: the suite as ``reelhaul up`` starts it, jobs created by gRPC, done when they have SUCCEEDED."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from tests.suite.suite import Suite, running_suite

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1 import media_pb2


class Ours:
    """A running suite, and how to have something fetched by it."""

    def __init__(self, suite: Suite, jobs: job_service_pb2_grpc.JobServiceStub) -> None:
        self.suite, self._jobs = suite, jobs

    async def seconds(self, urls: Sequence[str]) -> float:
        """From the first create to the last success. Raises RuntimeError where one fails."""
        began = time.time()
        names = await self.create(urls)
        return max([(await self.ended(name)).end_time.ToNanoseconds() / 1e9 for name in names]) - began

    async def create(self, urls: Sequence[str]) -> list[str]:
        """Jobs for *urls*, in batches."""
        names: list[str] = []
        for first in range(0, len(urls), 100):
            asked = [_request(url) for url in urls[first : first + 100]]
            batch = job_service_pb2.BatchCreateJobsRequest(requests=asked)
            names += [job.name for job in (await self._jobs.BatchCreateJobs(batch)).jobs]
        return names

    async def forget(self, name: str) -> None:
        """Remove an ended job and its files."""
        await self._jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=name))

    async def cancel(self, names: Sequence[str]) -> None:
        """End what runs."""
        for name in names:
            await self._jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name))

    async def ended(self, name: str) -> job_pb2.Job:
        """The job when it is over. Raises RuntimeError where it failed."""
        # The stream ends with the job.
        async for _ in self._jobs.WatchJob(job_service_pb2.WatchJobRequest(name=name)):
            pass
        job: job_pb2.Job = await self._jobs.GetJob(job_service_pb2.GetJobRequest(name=name))
        if job.state != job_pb2.Job.SUCCEEDED:
            raise RuntimeError(f"{job.url} {job_pb2.Job.State.Name(job.state)}: {job.error}")
        return job


@asynccontextmanager
async def ours(folder: Path, **settings: str) -> AsyncIterator[Ours]:
    """The suite on fresh data in *folder*; no limit of jobs to a site, or that would be measured."""
    with running_suite(folder / "data", jobs_site_limit="0", **settings) as suite:
        async with grpc.aio.insecure_channel(suite.address("jobs")) as channel:
            yield Ours(suite, job_service_pb2_grpc.JobServiceStub(channel))


def _request(url: str) -> job_service_pb2.CreateJobRequest:
    spec = media_pb2.FormatSpec(max_height=1080)
    return job_service_pb2.CreateJobRequest(job=job_pb2.Job(url=url, format=spec))
