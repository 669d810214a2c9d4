"""The message bus: work items and hints for workers, change notices between replicas, progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.model.wait_reason import WorkerStatus


@dataclass(frozen=True, slots=True)
class ProgressNotice:
    """Progress that a worker published; ordered by (epoch, sequence)."""

    job_id: str
    epoch: int
    sequence: int
    progress: media_pb2.Progress


class BusListener(Protocol):
    """Receives what workers and other replicas publish. Its methods must not block."""

    def publish_progress(self, notice: ProgressNotice) -> None:
        """Publish a worker's progress."""

    def publish_row_change(self, job_id: str, revision: int, tenant: str = "") -> None:
        """Publish that a row changed."""

    def record_worker(self, status: WorkerStatus) -> None:
        """Record a worker's report."""


class JobBus(Protocol):
    """The bus. Everything on it can be rebuilt from rows."""

    async def ensure_streams(self) -> bool:
        """Create missing streams and consumers. Return whether WORK was created: then it is empty.

        Raises ``Unavailable`` while the broker is away.
        """

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        """Publish these attempts as work items. Return those that are certainly stored."""

    async def count_work_items(self) -> int:
        """Return the number of stored work items, delivered or not. Raises ``Unavailable``."""

    async def count_work_items_by_subject(self) -> Mapping[tuple[Priority, str], int]:
        """Return the numbers of stored work items by priority and pool. Raises ``Unavailable``."""

    async def notify_changed(self, job: Job) -> None:
        """Notify all replicas that a row changed. Never raises: a lost notice is made up for."""

    async def notify_worker(self, job: Job) -> None:
        """Notify the worker of *job* to renew at once, or all workers if it has ended. Never raises."""

    async def notify_access_changed(self, name: str) -> None:
        """Notify all services that the key or tenant *name* changed. Never raises.

        A service that misses it learns of the change when what it keeps of the key expires.
        """

    async def get_last_progress(self, job_id: str) -> ProgressNotice | None:
        """Return the newest progress that the bus still has. Never raises."""
