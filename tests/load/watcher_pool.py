"""Watcher processes of all kinds, seen from the process that runs the load."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.load.topology import Topology, wait_until

_ROOT = Path(__file__).resolve().parents[2]
# A line holds the ages of all events of a process.
_LINE_LIMIT = 256 << 20
_END_TIMEOUT = 60.0


class WatcherPool:
    """The watchers of one kind, in a process of their own."""

    def __init__(
        self, kind: str, process: asyncio.subprocess.Process, select_job: Callable[[], str | None]
    ) -> None:
        self.kind, self._process, self._select_job = kind, process, select_job
        self._replaced = False
        #: Watchers that run, by job.
        self.running: Counter[str] = Counter()
        self.opened = 0
        #: The state that each ended watcher saw last: (job, state).
        self.ends: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.ages: dict[str, list[float]] = defaultdict(list)
        self.resumes: Counter[str] = Counter()

    @property
    def pid(self) -> int:
        """The pid of the process."""
        return self._process.pid

    @property
    def number(self) -> int:
        """Number of watchers that run."""
        return self.running.total()

    def watch(self, job: str) -> None:
        """Start a watcher of *job*."""
        self.running[job] += 1
        self._send("watch", job)

    def set_phase(self, name: str) -> None:
        """Name the phase that the events that follow belong to."""
        self._send("phase", name)

    def keep_number(self, *, keep: bool) -> None:
        """Set whether each watcher that ends is followed by one of another job."""
        self._replaced = keep

    async def read(self) -> None:
        """Take what the process reports, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            kind, *values = json.loads(line)
            match kind:
                case "open":
                    self.opened += 1
                case "end":
                    self.ends.append((values[0], values[1]))
                    self._end(values[0])
                case "failed":
                    self.failures.append(f"{self.kind} watcher of {values[0]}: {values[1]}")
                    self._end(values[0])
                case "summary":
                    self.ages = values[0]["ages"]
                    self.resumes = Counter(values[0]["resumes"])

    async def wait_for_opened(self, number: int, seconds: float) -> None:
        """Return when *number* watchers got their first message. Raises TimeoutError."""
        await wait_until(lambda: self.opened >= number, seconds)

    async def end(self) -> None:
        """End the process; what it received is known then."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), _END_TIMEOUT)

    def _end(self, job: str) -> None:
        self.running -= Counter([job])
        if self._replaced and (other := self._select_job()) is not None:
            self.watch(other)

    def _send(self, command: str, value: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, value]).encode() + b"\n")


@asynccontextmanager
async def running_watchers(
    topology: Topology, kinds: Sequence[str], select_job: Callable[[], str | None]
) -> AsyncIterator[list[WatcherPool]]:
    """Run a process without watchers for each of *kinds*; *select_job* selects jobs for further watchers."""
    async with AsyncExitStack() as stack:
        pools = list[WatcherPool]()
        for kind in kinds:
            arguments = ["--jobs", *topology.addresses("jobs"), "--gateways", *topology.addresses("gateway")]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.load.watchers",
                kind,
                *arguments,
                cwd=_ROOT,
                env={**_environment(), "REELHAUL_API_KEY": topology.key},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                start_new_session=True,
            )
            pool = WatcherPool(kind, process, select_job)
            stack.callback(_kill, process)
            reading = asyncio.create_task(pool.read())
            stack.callback(reading.cancel)
            pools.append(pool)
        yield pools


def _environment() -> dict[str, str]:
    # A proxy of the environment leads to the internet, not to this machine.
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
