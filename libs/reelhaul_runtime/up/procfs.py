"""Processes as Linux's /proc shows them: age, children, memory."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in RAM: ``rss`` counts shared pages in full, ``pss`` divides them among their users."""

    rss: int = 0
    pss: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss)


def age_seconds(pid: int) -> float:
    """Return the seconds since *pid* was started. Raises ProcessLookupError."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_stat(pid)[19]) / _TICKS_PER_SECOND


def children(pid: int) -> list[int]:
    """Return the processes whose parent is now *pid*."""
    try:
        lists = [(task / "children").read_text() for task in (_PROC / str(pid) / "task").iterdir()]
    except OSError:  # it has ended, or the kernel has no such lists
        return _children_by_parent().get(pid, [])
    return [int(child) for each in lists for child in each.split()]


def descendants(pid: int) -> list[int]:
    """Return all processes below *pid*."""
    by_parent, found = _children_by_parent(), []
    pending = list(by_parent.get(pid, ()))
    while pending:
        found.append(pending.pop())
        pending += by_parent.get(found[-1], ())
    return found


def memory(pid: int) -> Memory:
    """Return the memory of *pid* alone; zero if it is gone or may not be read."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory()
    sizes = {key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)}
    return Memory(sizes.get("Rss", 0), sizes.get("Pss", 0))


def _children_by_parent() -> dict[int, list[int]]:
    by_parent: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            try:
                by_parent[int(_stat(int(entry))[1])].append(int(entry))
            except ProcessLookupError:
                continue
    return by_parent


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/pid/stat from the third on; the second, a name, may contain anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
