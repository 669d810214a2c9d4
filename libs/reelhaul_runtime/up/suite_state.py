"""What a running suite tells other programs about itself: ``<data_dir>/run/suite.json``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reelhaul_runtime.up import procfs


@dataclass(frozen=True, slots=True)
class SuiteState:
    """A suite at one moment; rewritten at each start and end of a process."""

    #: The supervisor's.
    pid: int
    #: From the command to the first readiness, in seconds; None until then.
    ready_seconds: float | None
    #: Where each part answers, by name.
    addresses: Mapping[str, str]
    #: The proto service whose gRPC health tells readiness, by name of the part.
    health: Mapping[str, str]
    #: The process id of each part that runs now.
    processes: Mapping[str, int]


def write(folder: Path, record: SuiteState) -> None:
    """Put *record* into *folder*, whole or not at all; for its owner only."""
    fresh = folder / "suite.json.new"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(record), file, indent=1)
        file.write("\n")
    fresh.replace(folder / "suite.json")


def read(folder: Path) -> SuiteState | None:
    """The record in *folder*, None where there is none."""
    try:
        return SuiteState(**json.loads((folder / "suite.json").read_text()))
    except FileNotFoundError:
        return None


def leftover_pids(folder: Path) -> list[int]:
    """The processes that a supervisor which was killed has left running."""
    path = folder / "suite.json"
    try:
        left = read(folder)
        silent_seconds = time.time() - path.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return []
    # A process younger than the record has nothing but the number of ours.
    return [pid for pid in left.processes.values() if _age(pid) > silent_seconds - 1] if left else []


def _age(pid: int) -> float:
    try:
        return procfs.age_seconds(pid)
    except ProcessLookupError:
        return -1.0


def remove(folder: Path) -> None:
    """The suite has ended."""
    (folder / "suite.json").unlink(missing_ok=True)
