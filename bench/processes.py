"""Processes under measure: each in a group of its own that ends with its block, watched through /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_LEAVE_SECONDS = 8.0


class Process:
    """A running process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far, of the process alone."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@asynccontextmanager
async def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """*command*, what it says going to *log*, until the block ends: SIGTERM, then SIGKILL for its group."""
    with log.open("ab") as said:
        child = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield Process(child.pid)
        if child.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{_last_words(log)}")
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(child.wait, _LEAVE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait)


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def python(*arguments: str) -> list[str]:
    """The command for this Python."""
    return [sys.executable, *arguments]
