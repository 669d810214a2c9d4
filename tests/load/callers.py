"""Callers: create jobs, read them and list them at fixed rates, over REST and gRPC, and save files."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any, TypeVar

import httpx
from tests.chaos.audit import TERMINAL_STATES
from tests.chaos.requested_jobs import RequestedJob, new_request_id
from tests.chaos.videos import VideoSource
from tests.load.balancer import Balancer, running_balancer
from tests.load.topology import Topology, wait_until

from reelhaul.client import AsyncClient, CallFailed
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul_runtime.identity import LOCAL_TENANT
from reelhaul_runtime.rpc.channels import to_target

# Calls per second.
_GETS, _LISTS, _FILES = 20.0, 2.0, 1.0
_MOST_CREATES = 10.0
_PAGE_SIZE = 50
_REPEAT_SECONDS = 0.2
_TIMEOUT = httpx.Timeout(65, connect=5)

T = TypeVar("T")


class Callers:
    """Keeps *open_jobs* jobs unfinished and calls the suite meanwhile, over REST and gRPC in turn.

    *download_seconds*: how long the site takes for a video, on average.

    Calls over REST are sent once. Calls over gRPC are those of the client library, which repeats them.
    A create whose outcome is unknown is repeated with its request_id.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        grpc: AsyncClient,
        balancer: Balancer,
        videos: VideoSource,
        *,
        open_jobs: int,
        download_seconds: float,
    ) -> None:
        self._http, self._grpc, self._balancer, self._videos = http, grpc, balancer, videos
        self._rng = random.Random(1)
        self._open_jobs = open_jobs
        self._download_seconds = download_seconds
        self._stopped = asyncio.Event()
        self._tasks = set[asyncio.Task[None]]()
        self._creating = 0
        self.phase = ""
        self.jobs: list[RequestedJob] = []
        #: Jobs that have not ended, by name.
        self.open: dict[str, RequestedJob] = {}
        #: The last state of the jobs that have ended, by name.
        self.ended: dict[str, str] = {}
        #: Artifact and digest of files that were not read yet.
        self._files: list[tuple[str, str]] = []
        #: Seconds of each call, by phase and operation.
        self.latencies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        #: Failed calls by phase and text.
        self.failures: dict[str, Counter[str]] = defaultdict(Counter)
        #: Responses that must not occur.
        self.wrong_responses: list[str] = []

    def select_job(self) -> str | None:
        """Return a job that has not ended; None if there is none."""
        return self._rng.choice(list(self.open)) if self.open else None

    async def run(self) -> None:
        """Call until cancelled."""
        try:
            await asyncio.gather(
                self._follow(),
                self._repeat(_MOST_CREATES, self._create),
                self._repeat(_GETS, self._get),
                self._repeat(_LISTS, self._list),
                self._repeat(_FILES, self._read_file),
            )
        finally:
            for task in self._tasks:
                task.cancel()

    def stop_creating(self) -> None:
        """Create no more jobs."""
        self._stopped.set()

    async def wait_for_open(self, number: int, seconds: float) -> None:
        """Return when *number* jobs are unfinished. Raises TimeoutError."""
        await wait_until(lambda: len(self.open) >= number, seconds)

    async def wait_for_end(self, seconds: float) -> None:
        """Return when all jobs have ended. Raises TimeoutError."""
        await wait_until(lambda: not (self.open or self._creating), seconds)

    async def _repeat(self, rate: float, call: Callable[[bool], Coroutine[Any, Any, None] | None]) -> None:
        """Start *call* at *rate* per second, whether earlier ones have ended or not; every second one is
        REST."""
        begin, number = time.monotonic(), 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            if (coroutine := call(number % 2 == 0)) is not None:
                task = asyncio.create_task(coroutine)
                self._tasks.add(task)
                task.add_done_callback(self._end_call)

    def _end_call(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.wrong_responses.append(repr(error))

    async def _follow(self) -> None:
        """Learn of the end of jobs by WatchJobs."""
        async for message in self._grpc.watch_all():
            if message.HasField("job") and message.job.state in TERMINAL_STATES:
                job = message.job
                self.ended[job.name] = Job.State.Name(job.state)
                requested = self.open.pop(job.name, None)
                if requested is not None and job.artifacts:
                    self._files.append((job.artifacts[0].name, requested.video.sha256))

    def _create(self, over_rest: bool) -> Coroutine[Any, Any, None] | None:
        if self._stopped.is_set() or len(self.open) + self._creating >= self._open_jobs:
            return None
        self._creating += 1
        duration = self._download_seconds * self._rng.uniform(0.5, 1.5)
        video = self._videos.create(self._rng, duration=duration)
        job = RequestedJob(new_request_id(self._rng), video, LOCAL_TENANT)
        self.jobs.append(job)
        return self._create_until_answered(job, over_rest)

    async def _create_until_answered(self, job: RequestedJob, over_rest: bool) -> None:
        try:
            name = await self._create_once(job, over_rest)
            while name is None:
                await asyncio.sleep(_REPEAT_SECONDS)
                name = await self._create_once(job, over_rest)
            job.names.add(name)
            if name not in self.ended:
                self.open[name] = job
        finally:
            self._creating -= 1

    async def _create_once(self, job: RequestedJob, over_rest: bool) -> str | None:
        if over_rest:
            headers = {"Idempotency-Key": job.request_id}
            body = {"url": job.video.url}
            created = await self._rest("create (REST)", "POST", "/v1/jobs", json=body, headers=headers)
            return str(created.json()["name"]) if created is not None else None
        call = self._grpc.create(job.video.url, request_id=job.request_id)
        response = await self._measure("create (gRPC)", call)
        return f"jobs/{response.job_id}" if response is not None else None

    def _get(self, over_rest: bool) -> Coroutine[Any, Any, None] | None:
        name = self.select_job()
        return self._get_job(name, over_rest) if name else None

    async def _get_job(self, name: str, over_rest: bool) -> None:
        if over_rest:
            response = await self._rest("get (REST)", "GET", f"/v1/{name}")
            received = response.json()["name"] if response is not None else name
        else:
            job = await self._measure("get (gRPC)", self._grpc.get(name))
            received = f"jobs/{job.job_id}" if job is not None else name
        if received != name:
            self.wrong_responses.append(f"{name}: the response to a get is {received}")

    async def _list(self, _over_rest: bool) -> None:
        response = await self._rest("list (REST)", "GET", f"/v1/jobs?page_size={_PAGE_SIZE}")
        if response is not None and not response.json().get("jobs"):
            self.wrong_responses.append("a list of jobs is empty")

    def _read_file(self, _over_rest: bool) -> Coroutine[Any, Any, None] | None:
        return self._check_file(*self._files.pop()) if self._files else None

    async def _check_file(self, artifact: str, digest: str) -> None:
        response = await self._rest("read file (REST)", "GET", f"/v1/{artifact}:download")
        if response is not None and sha256(response.content).hexdigest() != digest:
            self.wrong_responses.append(f"{artifact}: its digest is not that of the video")

    async def _rest(self, operation: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        async def call() -> httpx.Response:
            response = await self._http.request(method, f"http://{self._balancer.select()}{path}", **options)
            return response.raise_for_status()

        return await self._measure(operation, call())

    async def _measure(self, operation: str, call: Awaitable[T]) -> T | None:
        """Await *call* and record its time; record its failure and return None if it fails."""
        phase, begin = self.phase, time.monotonic()
        try:
            result = await call
        except (CallFailed, httpx.HTTPError) as error:
            self.failures[phase][f"{operation}: {error!r}"[:300]] += 1
            return None
        self.latencies[phase][operation].append(time.monotonic() - begin)
        return result


@asynccontextmanager
async def open_callers(
    topology: Topology, videos: VideoSource, *, open_jobs: int, download_seconds: float
) -> AsyncIterator[Callers]:
    """Connect to *topology*; the callers do nothing before ``run``."""
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(running_balancer(topology.addresses("gateway")))
        http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {topology.key}"},
            timeout=_TIMEOUT,
            trust_env=False,
            follow_redirects=True,
        )
        await stack.enter_async_context(http)
        target = to_target(",".join(topology.addresses("jobs")))
        grpc = await stack.enter_async_context(AsyncClient(target, api_key=topology.key))
        yield Callers(http, grpc, balancer, videos, open_jobs=open_jobs, download_seconds=download_seconds)
