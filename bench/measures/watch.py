"""Watching: how long progress takes from the fetcher to the gRPC client, and what it costs the service.

Parts: spread (500 watchers of 500 jobs), crowd (500 watchers of one job, with and without slow ones).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import load
from bench.house import House, Service, house, serving
from bench.processes import python, running
from bench.report import Report, percentile, ratios
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.lease_service_pb2 import ClaimRequest

_WATCHERS = 500
_SLOW = 20
_GOAL_MS = 50.0

# A slow watcher's stream is full by then.
_WARM_SECONDS = 2.0


@dataclass(slots=True)
class _Rounds:
    """What the rounds of one arrangement came to."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def tell(self, report: Report, what: str) -> None:
        """Print them."""
        report.figure(f"{what}: p50", "ms", self.p50)
        report.figure(f"{what}: p99", "ms", self.p99)
        report.figure(f"{what}: delivered", "per s", self.rate)
        report.figure(f"{what}: service CPU a delivery", "us", self.cpu)
        report.figure(f"{what}: service memory a watcher", "kB", self.memory)


async def measure(report: Report, only: set[str]) -> None:
    """Measure both parts, or those of *only*."""
    rounds, seconds = (2, 5.0) if report.short else (5, 15.0)
    settings = {"REELHAUL_JOBS_SITE_LIMIT": "0", "REELHAUL_JOBS_LEASE_SECONDS": "600"}
    async with house(settings=settings) as place, serving(place) as service:
        jobs = await _held(service, _WATCHERS)
        scene = _Scene(place, service, seconds)
        if not only or "spread" in only:
            await _spread(report, scene, jobs, rounds)
        if not only or "crowd" in only:
            await _crowd(report, scene, jobs[0], rounds)


async def _spread(report: Report, scene: _Scene, jobs: list[tuple[str, int]], rounds: int) -> None:
    report.title(f"{_WATCHERS} watchers of {_WATCHERS} jobs, 1,000 events a second")
    found = _Rounds()
    for _ in range(rounds):
        await scene.measure(found, jobs, [name for name, _ in jobs], rate=1000.0)
    found.tell(report, "500 of 500")
    report.target("watch-500-jobs-p99", median(found.p99) / _GOAL_MS, "<=", 1)


async def _crowd(report: Report, scene: _Scene, job: tuple[str, int], rounds: int) -> None:
    report.title(f"{_WATCHERS} watchers of one job, 4 events a second; then {_SLOW} more that do not read")
    alone, beside = _Rounds(), _Rounds()
    for _ in range(rounds):
        await scene.measure(alone, [job], [job[0]] * _WATCHERS, rate=4.0)
        await scene.measure(beside, [job], [job[0]] * _WATCHERS, rate=4.0, slow=[job[0]] * _SLOW)
    alone.tell(report, "500 of one")
    beside.tell(report, f"500 of one, {_SLOW} slow ones beside")
    report.target("watch-one-job-p99", median(alone.p99) / _GOAL_MS, "<=", 1)
    report.target("watch-slow-neighbours-p99", ratios(beside.p99, alone.p99), "<=", 1.1)


class _Scene:
    """A service with running jobs, and how to fill it with watchers."""

    def __init__(self, place: House, service: Service, seconds: float) -> None:
        self._place, self._service, self._seconds = place, service, seconds

    async def measure(
        self,
        found: _Rounds,
        published: list[tuple[str, int]],
        watched: list[str],
        *,
        rate: float,
        slow: Sequence[str] = (),
    ) -> None:
        """One round: watchers in two processes, a publisher, and a while of steady state."""
        process = self._service.process
        before = process.megabytes
        halves = [watched[::2], watched[1::2]]
        async with AsyncExitStack() as stack:
            told = [await stack.enter_async_context(self._watching(half)) for half in halves]
            if slow:
                await stack.enter_async_context(self._watching(slow, "--slow"))
            await stack.enter_async_context(self._publishing(published, rate))
            await asyncio.sleep(_WARM_SECONDS)
            since, cpu = asyncio.get_running_loop().time(), process.cpu_seconds
            await asyncio.sleep(self._seconds)
            spent, took = process.cpu_seconds - cpu, asyncio.get_running_loop().time() - since
            memory = process.megabytes - before
        heard = sorted(each for path in told for each in json.loads(path.read_text()))
        steady = [late * 1000 for came, late in heard if came - heard[0][0] >= _WARM_SECONDS]
        found.p50.append(percentile(steady, 0.5))
        found.p99.append(percentile(steady, 0.99))
        found.rate.append(len(steady) / took)
        found.cpu.append(spent / len(steady) * 1e6)
        found.memory.append(max(0.0, memory) / len(watched) * 1000)

    @asynccontextmanager
    async def _watching(self, jobs: Sequence[str], *options: str) -> AsyncIterator[Path]:
        """Watchers whose streams all stand; the file tells what they heard when they are gone."""
        asked = self._new_file(jobs)
        told = asked.with_suffix(".told")
        command = python(
            "-m", "bench.watching.watchers", self._place.address, str(asked), str(told), *options
        )
        async with running(command, self._place.folder / "watchers.log"):
            async with asyncio.timeout(60):
                while not told.exists():  # noqa: ASYNC110 - a file rings no bell
                    await asyncio.sleep(0.05)
            yield told

    @asynccontextmanager
    async def _publishing(self, jobs: list[tuple[str, int]], rate: float) -> AsyncIterator[None]:
        asked = str(self._new_file(jobs))
        command = python("-m", "bench.watching.publisher", self._place.nats_url, asked, str(rate))
        async with running(command, self._place.folder / "publisher.log"):
            yield

    def _new_file(self, content: object) -> Path:
        path = self._place.folder / f"asked-{len(list(self._place.folder.glob('asked-*.json')))}.json"
        path.write_text(json.dumps(content))
        return path


async def _held(service: Service, number: int) -> list[tuple[str, int]]:
    """Running jobs by name and epoch: this process is their worker."""
    held: list[tuple[str, int]] = []
    for _ in range(number):
        job = await service.jobs.CreateJob(load.request())
        claim = ClaimRequest(
            job=job.name,
            attempt=1,
            worker="bench",
            slot=lease_pb2.Slot(engine_version="none 1", slot_count=1),
            request_id=job.name.removeprefix("jobs/"),
        )
        answer = await service.leases.Claim(claim)
        held.append((job.name, answer.lease.epoch))
    return held
