"""Suite state: ``<data_dir>/run/suite.json``, a running suite as other programs see it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reelhaul_runtime.up import procfs


@dataclass(frozen=True, slots=True)
class SuiteState:
    """A suite at one moment; rewritten whenever a process starts or ends."""

    #: The supervisor's process id.
    pid: int
    #: Seconds from the command to the first readiness; None until then.
    ready_seconds: float | None
    #: The address of each process, by name.
    addresses: Mapping[str, str]
    #: The proto service whose gRPC health is the readiness, by name of the process.
    health: Mapping[str, str]
    #: The process id of each process that runs now, by name.
    processes: Mapping[str, int]
    #: Where each process serves its metrics (host:port), by name, if it does.
    metrics: Mapping[str, str] = field(default_factory=dict)


def write(folder: Path, state: SuiteState) -> None:
    """Replace the state in *folder* atomically; only its owner can read it."""
    new = folder / "suite.json.new"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(state), file, indent=1)
        file.write("\n")
    new.replace(folder / "suite.json")


def read(folder: Path) -> SuiteState | None:
    """Return the state in *folder*, None if there is none."""
    try:
        return SuiteState(**json.loads((folder / "suite.json").read_text()))
    except FileNotFoundError:
        return None


def remove(folder: Path) -> None:
    """Delete the state: the suite has ended."""
    (folder / "suite.json").unlink(missing_ok=True)


def leftover_pids(folder: Path) -> list[int]:
    """Return the processes that a killed supervisor has left running."""
    path = folder / "suite.json"
    try:
        state = read(folder)
        seconds_since_write = time.time() - path.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return []
    if state is None:
        return []
    # A process younger than the file only reuses the process id.
    return [pid for pid in state.processes.values() if _age_seconds(pid) > seconds_since_write - 1]


def _age_seconds(pid: int) -> float:
    try:
        return procfs.age_seconds(pid)
    except ProcessLookupError:
        return -1.0
