"""The suite as ``reelhaul up`` starts it: downloads by gRPC, times by stage, and memory of its processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import grpc
from tests.suite.suite import Suite, running_suite

from bench.processes import Process
from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1 import media_pb2

_BATCH_SIZE = 100
_CHILDREN_TIMEOUT = 20.0
# By then extraction is over and the children download.
_SETTLE_SECONDS = 3.0


class SuiteDownloader:
    """Downloads with a running suite. A job that does not succeed raises RuntimeError."""

    def __init__(self, suite: Suite, jobs: job_service_pb2_grpc.JobServiceStub) -> None:
        self.suite, self._jobs = suite, jobs

    async def time(self, urls: Sequence[str]) -> float:
        """Download *urls*; return the seconds from the first create to the end of the last job."""
        begin = time.time()
        names = await self.create(urls)
        jobs = [await self.wait_for_end(name) for name in names]
        return max(job.end_time.ToNanoseconds() / 1e9 for job in jobs) - begin

    async def create(self, urls: Sequence[str]) -> list[str]:
        """Create jobs for *urls* in batches; return their names."""
        names: list[str] = []
        for first in range(0, len(urls), _BATCH_SIZE):
            requests = [_create_request(url) for url in urls[first : first + _BATCH_SIZE]]
            batch = job_service_pb2.BatchCreateJobsRequest(requests=requests)
            names += [job.name for job in (await self._jobs.BatchCreateJobs(batch)).jobs]
        return names

    async def delete(self, name: str) -> None:
        """Delete an ended job and its files."""
        await self._jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=name))

    async def cancel(self, names: Sequence[str]) -> None:
        """Cancel running jobs."""
        for name in names:
            await self._jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name))

    async def wait_for_end(self, name: str) -> job_pb2.Job:
        """Wait until the job has ended; return it."""
        # The stream ends with the job.
        async for _ in self._jobs.WatchJob(job_service_pb2.WatchJobRequest(name=name)):
            pass
        job: job_pb2.Job = await self._jobs.GetJob(job_service_pb2.GetJobRequest(name=name))
        if job.state != job_pb2.Job.SUCCEEDED:
            raise RuntimeError(f"{job.url} {job_pb2.Job.State.Name(job.state)}: {job.error}")
        return job


@asynccontextmanager
async def running_downloader(folder: Path, **settings: str) -> AsyncIterator[SuiteDownloader]:
    """Run a suite with its data in *folder*, without a limit of jobs per site."""
    with running_suite(folder / "data", jobs_site_limit="0", **settings) as suite:
        async with grpc.aio.insecure_channel(suite.address("jobs")) as channel:
            yield SuiteDownloader(suite, job_service_pb2_grpc.JobServiceStub(channel))


def stage_milliseconds(log: Path, job: job_pb2.Job) -> dict[str, float]:
    """Return the milliseconds of *job* in each stage, from its creation to its end.

    *log*: log of a suite with the level DEBUG.
    """
    milliseconds = dict[str, float]()
    begin, stage = job.create_time.ToNanoseconds() / 1e6, "waiting for a worker"
    for end, next_stage in (*_stage_changes(log, job.name), (job.end_time.ToNanoseconds() / 1e6, "")):
        milliseconds[stage] = milliseconds.get(stage, 0.0) + end - begin
        begin, stage = end, next_stage
    return milliseconds


async def child_memory(suite: Suite, count: int) -> list[float]:
    """Wait for *count* engine children; return the PSS of each with its inspector in MB."""
    async with asyncio.timeout(_CHILDREN_TIMEOUT):
        while len(pids := _grandchildren(suite)) < count:  # noqa: ASYNC110 - processes can only be polled
            await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLE_SECONDS)
    return [sum(map(_pss, [pid, *_children(pid)])) for pid in pids]


def process_memory(suite: Suite) -> dict[str, float]:
    """Return the RSS in MB of each long-lived process: broker, services, the fetcher's guard and zygote."""
    memory = {name: Process(pid).megabytes for name, pid in suite.processes().items()}
    for pid in _children(suite.processes()["fetcher"]):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        name = "engine's parent" if b"ytdlp.process.zygote" in command else "guard"
        memory[name] = Process(pid).megabytes
    return memory


def _create_request(url: str) -> job_service_pb2.CreateJobRequest:
    spec = media_pb2.FormatSpec(max_height=1080)
    return job_service_pb2.CreateJobRequest(job=job_pb2.Job(url=url, format=spec))


def _stage_changes(log: Path, name: str) -> Iterator[tuple[float, str]]:
    """Yield the time in milliseconds at which each stage of the job *name* begins, and the stage."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if name not in line or not line.startswith("{"):
                continue
            entry = json.loads(line)
            stages = {"claimed": "beginning", "stage": str(entry.get("stage")).lower()}
            stage = stages.get(entry["message"])
            if stage and entry.get("job") == name:
                yield datetime.fromisoformat(entry["time"]).timestamp() * 1e3, stage


def _grandchildren(suite: Suite) -> list[int]:
    return [pid for child in _children(suite.processes()["fetcher"]) for pid in _children(child)]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
