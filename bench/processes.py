"""Measured processes: each runs in its own process group, and /proc gives its CPU time and memory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_EXIT_TIMEOUT = 8.0


class Process:
    """A running process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the process itself."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    @property
    def exact_cpu_seconds(self) -> float:
        """Time on a CPU of the threads that it has now, in nanoseconds exactly, not in ticks of 10 ms.

        https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
        """
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def proportional_megabytes(self) -> float:
        """Resident memory, of which pages shared with other processes count by their share (PSS)."""
        line = next(
            line
            for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Pss:")
        )
        return int(line.split()[1]) * 1024 / 1e6


class CpuMeter:
    """Measures the CPU time of process trees from its construction on, also on a busy machine."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: _tree_cpu_seconds(pid) for name, pid in pids.items()}

    def milliseconds_per_job(self, jobs: int, **other_seconds: float) -> dict[str, float]:
        """Return the milliseconds per job by process; *other_seconds* are CPU times measured elsewhere."""
        seconds = {name: _tree_cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}
        return {name: 1000 * spent / jobs for name, spent in {**other_seconds, **seconds}.items()}


@asynccontextmanager
async def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run *command* with its output in *log* until the block ends: SIGTERM, then SIGKILL for its group."""
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield Process(child.pid)
        if child.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} exited with {child.returncode}:\n{_end_of(log)}")
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(child.wait, _EXIT_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def python_command(*arguments: str) -> list[str]:
    """Return the command that runs this Python with *arguments*."""
    return [sys.executable, *arguments]


def _tree_cpu_seconds(root: int) -> float:
    """Return the CPU seconds of the process *root* and of all its descendants, ended ones included."""
    seconds, parents = _read_processes()
    tree = {root}
    while children := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= children
    return sum(seconds.get(pid, 0.0) for pid in tree)


def _read_processes() -> tuple[dict[int, float], dict[int, int]]:
    """Return CPU seconds (with those of ended children) and parent of every process."""
    seconds, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(fields[1])
        seconds[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS_PER_SECOND
    return seconds, parents
