"""What schedules need of the world: rows, among which their jobs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.schedule import Run, Schedule
from reelhaul_jobs.ports.jobs import IdempotencyKey

#: What becomes of a schedule as it is now. Pure: it may run again.
ScheduleRule = Callable[[Schedule], Schedule]

#: What a run makes of it, told whether a job of it is live. Pure: it may run again.
RunRule = Callable[[Schedule, bool], Run]


class ScheduleStore(Protocol):
    """Schedules, each its tenant's own: another tenant's are not there."""

    async def add(self, schedule: Schedule, request: IdempotencyKey | None = None) -> Schedule:
        """Keep a new schedule. The same *request* again answers the first one as it is now.

        Raises RESOURCE_EXISTS, QUOTA_EXCEEDED above ``model.MOST``, REQUEST_ID_REUSED.
        """

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """The schedule, or ``NotFound``."""

    async def list_all(self, tenant: str) -> Sequence[Schedule]:
        """All of the tenant's, in no order."""

    async def change(self, tenant: str, schedule_id: str, rule: ScheduleRule) -> Schedule:
        """What *rule* makes of it, kept. What *rule* raises leaves all as it was. ``NotFound``."""

    async def run(
        self, tenant: str, schedule_id: str, rule: RunRule, request: IdempotencyKey | None = None
    ) -> Run:
        """What *rule* makes of it, kept in one transaction with the job that it made. ``NotFound``.

        A repeated *request* answers the first one's job.
        """

    async def delete(self, tenant: str, schedule_id: str, check: Callable[[Schedule], None]) -> None:
        """Remove it, with what it has seen, unless *check* raises. ``NotFound``."""

    async def list_due(self, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """Tenant and id of schedules whose time has come, the longest due first."""
