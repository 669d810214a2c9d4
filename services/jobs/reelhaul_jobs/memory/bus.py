"""A bus in lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reelhaul_jobs.model.fair_scheduling import Ready
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.bus import Notice


@dataclass
class MemoryBus:
    """A JobBus that keeps what it is told; ``away`` makes it refuse."""

    items: list[Ready] = field(default_factory=list)
    changes: list[Job] = field(default_factory=list)
    stops: list[Job] = field(default_factory=list)
    notices: dict[str, Notice] = field(default_factory=dict)
    #: The next ``ready`` says that WORK was made anew.
    fresh: bool = False
    away: bool = False

    async def ready(self) -> bool:
        """See JobBus.ready."""
        fresh, self.fresh = self.fresh, False
        return fresh

    async def publish(self, jobs: Sequence[Ready], now: datetime) -> Sequence[Ready]:
        """See JobBus.publish."""
        if self.away:
            return []
        self.items.extend(jobs)
        return jobs

    async def waiting(self) -> int:
        """See JobBus.waiting."""
        return len(self.items)

    async def changed(self, job: Job) -> None:
        """See JobBus.changed."""
        self.changes.append(job)

    async def stop(self, job: Job) -> None:
        """See JobBus.stop."""
        self.stops.append(job)

    async def progress(self, job_id: str) -> Notice | None:
        """See JobBus.progress."""
        return self.notices.get(job_id)
