"""The store of schedules, whose jobs are in the store of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from reelhaul_jobs.model.schedule import CheckJob, Run, Schedule
from reelhaul_jobs.ports.jobs import IdempotencyKey

#: Returns the changed schedule. Pure: it may be called again.
ScheduleRule = Callable[[Schedule], Schedule]

#: Returns the run of a schedule, given whether one of its jobs has not ended, and what raises QUOTA_EXCEEDED
#: for the job that it creates. Pure: it may be called again.
RunRule = Callable[[Schedule, bool, CheckJob], Run]


class ScheduleStore(Protocol):
    """Stores schedules; those of other tenants are not found."""

    async def add(self, schedule: Schedule, request: IdempotencyKey | None = None) -> Schedule:
        """Store a new schedule. A repeated *request* returns the first one's schedule as it is now.

        Raises RESOURCE_EXISTS, QUOTA_EXCEEDED above ``schedule.MAX_PER_TENANT``, REQUEST_ID_REUSED.
        """

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """Return the schedule. Raises ``NotFound``."""

    async def list_all(self, tenant: str) -> Sequence[Schedule]:
        """Return all schedules of *tenant*, in no order."""

    async def change(self, tenant: str, schedule_id: str, rule: ScheduleRule) -> Schedule:
        """Store what *rule* returns. If *rule* raises, nothing changes. Raises ``NotFound``."""

    async def run(
        self, tenant: str, schedule_id: str, rule: RunRule, request: IdempotencyKey | None = None
    ) -> Run:
        """Store what *rule* returns, with the job that it created, in one transaction.

        A repeated *request* returns the first one's job. Raises ``NotFound``.
        """

    async def delete(self, tenant: str, schedule_id: str, check: Callable[[Schedule], None]) -> None:
        """Delete the schedule and its seen entries, unless *check* raises. Raises ``NotFound``."""

    async def list_due(self, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """Return tenant and id of schedules whose time has come, the longest overdue first."""
