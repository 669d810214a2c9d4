"""Scenes: which jobs are watched while how much progress is published, played against a server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import JobsEnvironment
from bench.processes import Process, python_command, running
from bench.report import Report, percentile

# By then the streams of slow watchers are full.
_WARM_UP_SECONDS = 2.0
_OPEN_TIMEOUT = 60.0

#: Name and lease epoch of a running job.
RunningJob = tuple[str, int]

#: Arrival time and latency of messages, in seconds.
_Latencies = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scene:
    """The jobs about which progress is published, and the jobs that are watched."""

    published: Sequence[RunningJob]
    watched: Sequence[str]
    #: Number of watchers that are grpc.aio clients; the others are light.
    real: int
    #: Progress notices per second, over all published jobs.
    rate: float


@dataclass(slots=True)
class SceneResult:
    """Values of each round of a scene, with *slow* additional watchers that do not read."""

    slow: int = 0
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    real_p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    #: Memory of the server above that before the watchers came.
    memory: list[float] = field(default_factory=list)

    def add_to(self, report: Report, name: str) -> None:
        """Add the figures to *report*; *name* is the prefix of their names."""
        report.add_figure(f"{name}: p50", "ms", self.p50)
        report.add_figure(f"{name}: p99", "ms", self.p99)
        report.add_figure(f"{name}: p99 of the grpc.aio clients", "ms", self.real_p99)
        report.add_figure(f"{name}: delivered", "per s", self.rate)
        report.add_figure(f"{name}: server CPU a delivery", "us", self.cpu)
        report.add_figure(f"{name}: server memory", "MB", self.memory)

    def add_round(self, window: _Window, light: _Latencies, real: _Latencies) -> None:
        """Add a round: the messages that the light and the real watchers received in *window*."""
        light_latencies, real_latencies = window.latencies(light), window.latencies(real)
        latencies = light_latencies + real_latencies
        self.p50.append(percentile(latencies, 0.5))
        self.p99.append(percentile(latencies, 0.99))
        self.real_p99.append(percentile(real_latencies, 0.99))
        self.rate.append(len(latencies) / (window.end - window.begin))
        self.cpu.append(window.cpu / len(latencies) * 1e6)
        self.memory.append(max(0.0, window.memory))


@dataclass(frozen=True, slots=True)
class _Window:
    """A measured period, with CPU seconds and memory of the server."""

    begin: float
    end: float
    cpu: float
    memory: float

    def latencies(self, messages: _Latencies) -> list[float]:
        """Return the latencies in milliseconds of the *messages* that arrived in this period."""
        return [latency * 1000 for time_, latency in messages if self.begin <= time_ < self.end]


class Stage:
    """A server against which scenes are played in windows of *seconds*."""

    def __init__(self, environment: JobsEnvironment, address: str, process: Process, seconds: float) -> None:
        self._environment, self._address = environment, address
        self._process, self._seconds = process, seconds

    async def play(self, scene: Scene, rounds: int, *results: SceneResult) -> None:
        """Play *scene* with the same watchers all the time; each round has a window for each of *results*."""
        windows = list[tuple[SceneResult, _Window]]()
        idle_memory = self._process.megabytes
        async with AsyncExitStack() as stack:
            real = await stack.enter_async_context(self._watching(scene.watched[: scene.real], "real"))
            light = await stack.enter_async_context(self._watching(scene.watched[scene.real :], "light"))
            await stack.enter_async_context(self._publishing(scene.published, scene.rate))
            for number in range(rounds):
                # In alternating order, so that growth over time does not affect one result more than another.
                for result in results if number % 2 == 0 else results[::-1]:
                    windows.append((result, await self._measure_window(scene, result.slow, idle_memory)))
        latencies: list[_Latencies] = [json.loads(path.read_text()) for path in (light, real)]
        for result, window in windows:
            result.add_round(window, *latencies)

    async def _measure_window(self, scene: Scene, slow: int, idle_memory: float) -> _Window:
        process = self._process
        async with AsyncExitStack() as stack:
            if slow:
                await stack.enter_async_context(self._watching(scene.watched[:slow], "slow"))
            await asyncio.sleep(_WARM_UP_SECONDS)
            begin, cpu = time.time(), process.cpu_seconds
            await asyncio.sleep(self._seconds)
            memory = process.megabytes - idle_memory
            return _Window(begin, time.time(), process.cpu_seconds - cpu, memory)

    @asynccontextmanager
    async def _watching(self, jobs: Sequence[str], kind: str) -> AsyncIterator[Path]:
        """Run watchers, all streams open; the yielded file has their latencies after the block."""
        jobs_file = self._write_file(jobs)
        output = jobs_file.with_suffix(".latencies")
        command = python_command(
            "-m", "bench.watch.watchers", self._address, str(jobs_file), str(output), kind
        )
        async with running(command, self._environment.folder / "watchers.log"):
            async with asyncio.timeout(_OPEN_TIMEOUT):
                while not output.exists():  # noqa: ASYNC110 - the file is created by another process
                    await asyncio.sleep(0.05)
            yield output

    @asynccontextmanager
    async def _publishing(self, jobs: Sequence[RunningJob], rate: float) -> AsyncIterator[None]:
        jobs_file = str(self._write_file(jobs))
        command = python_command(
            "-m", "bench.watch.publisher", self._environment.nats_url, jobs_file, str(rate)
        )
        async with running(command, self._environment.folder / "publisher.log"):
            yield

    def _write_file(self, content: object) -> Path:
        folder = self._environment.folder
        path = folder / f"jobs-{len(list(folder.glob('jobs-*.json')))}.json"
        path.write_text(json.dumps(content))
        return path
