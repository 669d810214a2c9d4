"""Failpoints in logs: where processes of a crash test have killed themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


def read_failpoints_hit(log: Path) -> Iterator[str]:
    """Yield the failpoint of each process that has killed itself at one, from the JSON lines of *log*."""
    with log.open(errors="replace") as lines:
        for line in lines:
            # Few lines have one, and a line may be cut off where a process was killed.
            if '"failpoint"' not in line:
                continue
            try:
                yield json.loads(line[line.index("{") :])["failpoint"]
            except ValueError:
                continue
