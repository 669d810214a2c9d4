"""A fake of the JobBus port: records what it is asked to publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.bus import ProgressNotice


@dataclass
class FakeBus:
    """A JobBus in lists; it publishes nothing while ``unavailable``."""

    items: list[ReadyJob] = field(default_factory=list)
    changes: list[Job] = field(default_factory=list)
    stops: list[Job] = field(default_factory=list)
    #: Names of changed keys and tenants.
    access_changes: list[str] = field(default_factory=list)
    notices: dict[str, ProgressNotice] = field(default_factory=dict)
    #: Whether the next ``ready`` reports that the WORK stream was created anew.
    fresh: bool = False
    unavailable: bool = False

    async def ensure_streams(self) -> bool:
        fresh, self.fresh = self.fresh, False
        return fresh

    async def publish(self, jobs: Sequence[ReadyJob], now: datetime) -> Sequence[ReadyJob]:
        if self.unavailable:
            return []
        self.items.extend(jobs)
        return jobs

    async def count_work_items(self) -> int:
        return len(self.items)

    async def notify_changed(self, job: Job) -> None:
        self.changes.append(job)

    async def notify_worker(self, job: Job) -> None:
        self.stops.append(job)

    async def notify_access_changed(self, name: str) -> None:
        self.access_changes.append(name)

    async def get_last_progress(self, job_id: str) -> ProgressNotice | None:
        return self.notices.get(job_id)
