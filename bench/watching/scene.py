"""Scenes: who watches which jobs while how much is said of them, played before a server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.house import House
from bench.processes import Process, python, running
from bench.report import Report, percentile

# A slow watcher's stream is full by then.
_WARM_SECONDS = 2.0

#: A running job: its name, and the epoch of its lease.
Held = tuple[str, int]

_Heard = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is published, and who watches: the first *real* ones as programs do, the others lightly."""

    published: list[Held]
    watched: Sequence[str]
    real: int
    #: Events a second, over all that is published.
    rate: float
    slow: int = 0

    def beside(self, slow: int) -> Scene:
        """The same with so many watchers more who do not read."""
        return replace(self, slow=slow)


@dataclass(slots=True)
class Rounds:
    """What the rounds of one scene came to."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    real_p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def tell(self, report: Report, what: str) -> None:
        """Print them."""
        report.figure(f"{what}: p50", "ms", self.p50)
        report.figure(f"{what}: p99", "ms", self.p99)
        report.figure(f"{what}: p99 of the grpc.aio clients", "ms", self.real_p99)
        report.figure(f"{what}: delivered", "per s", self.rate)
        report.figure(f"{what}: service CPU a delivery", "us", self.cpu)
        report.figure(f"{what}: service memory a watcher", "kB", self.memory)


class Stage:
    """A server, and how to fill it with watchers."""

    def __init__(self, place: House, address: str, process: Process, seconds: float) -> None:
        self._place, self._address, self._process, self._seconds = place, address, process, seconds

    async def play(self, scene: Scene, found: Rounds) -> None:
        """One round: watchers, then a publisher, then a while of steady state."""
        process, before = self._process, self._process.megabytes
        async with AsyncExitStack() as stack:
            real = await stack.enter_async_context(self._watching(scene.watched[: scene.real], "real"))
            light = await stack.enter_async_context(self._watching(scene.watched[scene.real :], "light"))
            if scene.slow:
                await stack.enter_async_context(self._watching(scene.watched[: scene.slow], "slow"))
            await stack.enter_async_context(self._publishing(scene.published, scene.rate))
            await asyncio.sleep(_WARM_SECONDS)
            since, cpu = time.time(), process.cpu_seconds
            await asyncio.sleep(self._seconds)
            until, spent = time.time(), process.cpu_seconds - cpu
            memory = process.megabytes - before
        heard: tuple[_Heard, _Heard] = json.loads(light.read_text()), json.loads(real.read_text())
        steady, clients = ([late * 1000 for came, late in each if since <= came < until] for each in heard)
        everyone = steady + clients
        found.p50.append(percentile(everyone, 0.5))
        found.p99.append(percentile(everyone, 0.99))
        found.real_p99.append(percentile(clients, 0.99))
        found.rate.append(len(everyone) / (until - since))
        found.cpu.append(spent / len(everyone) * 1e6)
        found.memory.append(max(0.0, memory) / (len(scene.watched) + scene.slow) * 1000)

    @asynccontextmanager
    async def _watching(self, jobs: Sequence[str], kind: str) -> AsyncIterator[Path]:
        """Watchers whose streams all stand; the file tells what they heard when they are gone."""
        asked = self._new_file(jobs)
        told = asked.with_suffix(".told")
        command = python("-m", "bench.watching.watchers", self._address, str(asked), str(told), kind)
        async with running(command, self._place.folder / "watchers.log"):
            async with asyncio.timeout(60):
                while not told.exists():  # noqa: ASYNC110 - a file rings no bell
                    await asyncio.sleep(0.05)
            yield told

    @asynccontextmanager
    async def _publishing(self, jobs: list[Held], rate: float) -> AsyncIterator[None]:
        asked = str(self._new_file(jobs))
        command = python("-m", "bench.watching.publisher", self._place.nats_url, asked, str(rate))
        async with running(command, self._place.folder / "publisher.log"):
            yield

    def _new_file(self, content: object) -> Path:
        path = self._place.folder / f"asked-{len(list(self._place.folder.glob('asked-*.json')))}.json"
        path.write_text(json.dumps(content))
        return path
