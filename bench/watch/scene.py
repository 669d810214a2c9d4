"""Scenes: who watches which jobs while how much is said of them, played before a server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import House
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

    published: Sequence[Held]
    watched: Sequence[str]
    real: int
    #: Events a second, over all that is published.
    rate: float


@dataclass(slots=True)
class Rounds:
    """What the rounds of one scene came to, with so many more watchers beside who do not read."""

    slow: int = 0
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    real_p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    #: What these watchers made of the server, more than it was without them.
    memory: list[float] = field(default_factory=list)

    def tell(self, report: Report, what: str) -> None:
        """Print them."""
        report.figure(f"{what}: p50", "ms", self.p50)
        report.figure(f"{what}: p99", "ms", self.p99)
        report.figure(f"{what}: p99 of the grpc.aio clients", "ms", self.real_p99)
        report.figure(f"{what}: delivered", "per s", self.rate)
        report.figure(f"{what}: server CPU a delivery", "us", self.cpu)
        report.figure(f"{what}: server memory", "MB", self.memory)

    def add(self, window: _Window, readers: _Heard, clients: _Heard) -> None:
        """One round, of all that was heard."""
        of_readers, of_clients = window.late(readers), window.late(clients)
        everyone = of_readers + of_clients
        self.p50.append(percentile(everyone, 0.5))
        self.p99.append(percentile(everyone, 0.99))
        self.real_p99.append(percentile(of_clients, 0.99))
        self.rate.append(len(everyone) / (window.until - window.since))
        self.cpu.append(window.cpu / len(everyone) * 1e6)
        self.memory.append(max(0.0, window.memory))


@dataclass(frozen=True, slots=True)
class _Window:
    """A while of steady state: from when to when, and what it took of the server."""

    since: float
    until: float
    cpu: float
    memory: float

    def late(self, heard: _Heard) -> list[float]:
        """How many milliseconds after it left each message came."""
        return [late * 1000 for came, late in heard if self.since <= came < self.until]


class Stage:
    """A server, and how to fill it with watchers."""

    def __init__(self, place: House, address: str, process: Process, seconds: float) -> None:
        self._place, self._address, self._process, self._seconds = place, address, process, seconds

    async def play(self, scene: Scene, rounds: int, *found: Rounds) -> None:
        """The same watchers all the while; in each round a window for each of *found*."""
        windows = list[tuple[Rounds, _Window]]()
        empty = self._process.megabytes
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(self._watching(scene.watched[: scene.real], "real"))
            readers = await stack.enter_async_context(self._watching(scene.watched[scene.real :], "light"))
            await stack.enter_async_context(self._publishing(scene.published, scene.rate))
            for number in range(rounds):
                # Forth and back: what grows with time falls to none of them.
                for each in found if number % 2 == 0 else found[::-1]:
                    windows.append((each, await self._window(scene, each.slow, empty)))
        heard: list[_Heard] = [json.loads(path.read_text()) for path in (readers, clients)]
        for each, window in windows:
            each.add(window, *heard)

    async def _window(self, scene: Scene, slow: int, empty: float) -> _Window:
        process = self._process
        async with AsyncExitStack() as stack:
            if slow:
                await stack.enter_async_context(self._watching(scene.watched[:slow], "slow"))
            await asyncio.sleep(_WARM_SECONDS)
            since, cpu = time.time(), process.cpu_seconds
            await asyncio.sleep(self._seconds)
            return _Window(since, time.time(), process.cpu_seconds - cpu, process.megabytes - empty)

    @asynccontextmanager
    async def _watching(self, jobs: Sequence[str], kind: str) -> AsyncIterator[Path]:
        """Watchers whose streams all stand; the file tells what they heard when they are gone."""
        asked = self._new_file(jobs)
        told = asked.with_suffix(".told")
        command = python("-m", "bench.watch.watchers", self._address, str(asked), str(told), kind)
        async with running(command, self._place.folder / "watchers.log"):
            async with asyncio.timeout(60):
                while not told.exists():  # noqa: ASYNC110 - a file rings no bell
                    await asyncio.sleep(0.05)
            yield told

    @asynccontextmanager
    async def _publishing(self, jobs: Sequence[Held], rate: float) -> AsyncIterator[None]:
        asked = str(self._new_file(jobs))
        command = python("-m", "bench.watch.publisher", self._place.nats_url, asked, str(rate))
        async with running(command, self._place.folder / "publisher.log"):
            yield

    def _new_file(self, content: object) -> Path:
        path = self._place.folder / f"asked-{len(list(self._place.folder.glob('asked-*.json')))}.json"
        path.write_text(json.dumps(content))
        return path
