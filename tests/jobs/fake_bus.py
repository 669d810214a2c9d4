"""A fake of the JobBus port: records what it is asked to publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul_jobs.model.fair_scheduling import Ready
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.bus import Notice


@dataclass
class FakeBus:
    """A JobBus in lists; it publishes nothing while ``away``."""

    items: list[Ready] = field(default_factory=list)
    changes: list[Job] = field(default_factory=list)
    stops: list[Job] = field(default_factory=list)
    notices: dict[str, Notice] = field(default_factory=dict)
    #: Whether the next ``ready`` reports that the WORK stream was created anew.
    fresh: bool = False
    away: bool = False

    async def ready(self) -> bool:
        fresh, self.fresh = self.fresh, False
        return fresh

    async def publish(self, jobs: Sequence[Ready], now: datetime) -> Sequence[Ready]:
        if self.away:
            return []
        self.items.extend(jobs)
        return jobs

    async def waiting(self) -> int:
        return len(self.items)

    async def changed(self, job: Job) -> None:
        self.changes.append(job)

    async def stop(self, job: Job) -> None:
        self.stops.append(job)

    async def progress(self, job_id: str) -> Notice | None:
        return self.notices.get(job_id)
