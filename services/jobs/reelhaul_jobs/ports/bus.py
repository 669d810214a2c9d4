"""The bus: what jobs says to workers and to its other replicas, and what it hears of progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job


@dataclass(frozen=True, slots=True)
class ProgressNotice:
    """A worker's newest progress, ordered by (epoch, sequence)."""

    job_id: str
    epoch: int
    sequence: int
    progress: media_pb2.Progress


class JobBus(Protocol):
    """What jobs says to workers and to its other replicas. All of it can be rebuilt from rows."""

    async def ensure_streams(self) -> bool:
        """Make what is missing of streams and consumers. Whether WORK was made anew: then it is empty.

        ``Unavailable`` while the broker is away.
        """

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        """Put these attempts to the workers; those that are stored for sure, come back."""

    async def count_work_items(self) -> int:
        """Work items stored, in hand or not. ``Unavailable`` while the broker is away."""

    async def notify_changed(self, job: Job) -> None:
        """Tell all replicas that a row changed. Never raises: a lost one is made up for."""

    async def notify_worker(self, job: Job) -> None:
        """Tell the worker that holds *job* to renew now. Never raises."""

    async def get_last_progress(self, job_id: str) -> ProgressNotice | None:
        """The newest progress that the bus still has. Never raises."""
