"""Schedules in a dict, over the jobs of a MemoryStore: for tests, demos and laptops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from reelhaul_jobs.memory.store import MemoryStore
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.schedule import Run, Schedule, ScheduleState
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.schedules import Rule, RunRule
from reelhaul_runtime.errors import NotFound


class MemoryScheduleStore:
    """The twin of SqlScheduleStore."""

    def __init__(self, jobs: MemoryStore) -> None:
        self._jobs, self._rows = jobs, jobs.rows
        self._schedules: dict[tuple[str, str], Schedule] = {}

    async def add(self, schedule: Schedule, request: IdempotencyKey | None = None) -> Schedule:
        """See ScheduleStore.add."""
        if request is not None and (earlier := self._rows.answered(request)) is not None:
            return await self.get(schedule.tenant, earlier[0])
        if len(await self.all(schedule.tenant)) >= model.MOST:
            raise model.too_many()
        key = schedule.tenant, schedule.id
        if key in self._schedules:
            raise model.exists(schedule)
        self._schedules[key] = schedule
        self._rows.entries[key] = set()
        if request is not None:
            self._rows.remember(request, [schedule.id])
        return schedule

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """See ScheduleStore.get."""
        if (tenant, schedule_id) not in self._schedules:
            raise NotFound(f"schedules/{schedule_id}")
        seen = len(self._rows.entries[tenant, schedule_id])
        return replace(self._schedules[tenant, schedule_id], seen_count=seen)

    async def all(self, tenant: str) -> Sequence[Schedule]:
        """See ScheduleStore.all."""
        return [await self.get(*key) for key in self._schedules if key[0] == tenant]

    async def change(self, tenant: str, schedule_id: str, rule: Rule) -> Schedule:
        """See ScheduleStore.change."""
        after = rule(await self.get(tenant, schedule_id))
        self._schedules[tenant, schedule_id] = after
        return after

    async def run(
        self, tenant: str, schedule_id: str, rule: RunRule, request: IdempotencyKey | None = None
    ) -> Run:
        """See ScheduleStore.run."""
        before = await self.get(tenant, schedule_id)
        if request is not None and (earlier := self._rows.answered(request)) is not None:
            return Run(before=before, after=before, job=await self._jobs.get(earlier[0]))
        run = rule(before, before.skip_overlapping and self._rows.lives(tenant, schedule_id))
        if run.job is not None:
            await self._jobs.add([run.job], request)
        self._schedules[tenant, schedule_id] = run.after
        return run

    async def delete(self, tenant: str, schedule_id: str, check: Callable[[Schedule], None]) -> None:
        """See ScheduleStore.delete."""
        check(await self.get(tenant, schedule_id))
        del self._schedules[tenant, schedule_id], self._rows.entries[tenant, schedule_id]

    async def due(self, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """See ScheduleStore.due."""
        found = [
            (one.next_run_time, key)
            for key, one in self._schedules.items()
            if one.state is ScheduleState.ENABLED and one.next_run_time is not None
        ]
        return [key for time, key in sorted(found) if time <= now][:limit]
