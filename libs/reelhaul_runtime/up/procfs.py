"""What Linux tells of processes: age, parents, memory."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in RAM: ``rss`` counts shared pages in full, ``pss`` shares them out among their users."""

    rss: int = 0
    pss: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss)


def age_seconds(pid: int) -> float:
    """Seconds since *pid* was started. Raises ProcessLookupError."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_stat(pid)[19]) / _TICKS


def children(pid: int) -> list[int]:
    """The processes whose parent *pid* is now."""
    return _families().get(pid, [])


def descendants(pid: int) -> list[int]:
    """All processes below *pid*."""
    families, found = _families(), []
    waiting = list(families.get(pid, ()))
    while waiting:
        found.append(waiting.pop())
        waiting += families.get(found[-1], ())
    return found


def memory(pid: int) -> Memory:
    """What *pid* alone holds; nothing where it is gone or not ours to look at."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory()
    sizes = {key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)}
    return Memory(sizes.get("Rss", 0), sizes.get("Pss", 0))


def _families() -> dict[int, list[int]]:
    """Children by parent."""
    families: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            try:
                families[int(_stat(int(entry))[1])].append(int(entry))
            except ProcessLookupError:
                continue
    return families


def _stat(pid: int) -> list[str]:
    """The fields of /proc/pid/stat from the third on; the second is a name that may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
