"""What a job costs each process in CPU time: a figure that holds on a busy machine as well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def seconds_of(root: int) -> float:
    """User and system time so far of the process *root* and all that descend from it."""
    spent, parents = _all()
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(spent.get(pid, 0.0) for pid in family)


class Cost:
    """The CPU time of processes, by what they are called in the report, since it was made."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._before = {name: seconds_of(pid) for name, pid in processes.items()}

    def each(self, number: int, **more: float) -> dict[str, float]:
        """Milliseconds for each of *number* jobs, by process; *more* are seconds measured elsewhere."""
        spent = {name: seconds_of(pid) - self._before[name] for name, pid in self._processes.items()}
        return {name: 1000 * seconds / number for name, seconds in {**more, **spent}.items()}


def _all() -> tuple[dict[int, float], dict[int, int]]:
    """CPU seconds, with those of children that have ended, and parent of each process there is."""
    spent, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(fields[1])
        spent[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK
    return spent, parents
