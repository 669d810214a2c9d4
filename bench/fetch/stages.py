"""How long a job was in each of its stages, by the fetcher's own log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from reelhaul.jobs.v1 import job_pb2


def spent(log: Path, job: job_pb2.Job) -> dict[str, float]:
    """Milliseconds of *job*, from its creation to its end, by stage; the suite logs at DEBUG into *log*."""
    at, stage, taken = job.create_time.ToNanoseconds() / 1e6, "waiting for a worker", dict[str, float]()
    for when, begun in (*_marks(log, job.name), (job.end_time.ToNanoseconds() / 1e6, "")):
        taken[stage] = taken.get(stage, 0.0) + when - at
        at, stage = when, begun
    return taken


def _marks(log: Path, name: str) -> Iterator[tuple[float, str]]:
    """When, and what, begins."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if name not in line or not line.startswith("{"):
                continue
            told = json.loads(line)
            begun = {"claimed": "beginning", "stage": str(told.get("stage")).lower()}.get(told["message"])
            if begun and told.get("job") == name:
                yield datetime.fromisoformat(told["time"]).timestamp() * 1e3, begun
