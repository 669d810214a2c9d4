"""Schedules in SQL: a run reads its row, applies a pure rule, and writes row and job together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, text, update

from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.schedule import Run, Schedule
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.schedules import Rule, RunRule
from reelhaul_jobs.store import idempotency, schedule_rows
from reelhaul_jobs.store import insert as births_store
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.jobs import get_job
from reelhaul_jobs.store.rows import micros
from reelhaul_jobs.store.tables import OF_A_SCHEDULE, jobs, schedules
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database

_IS_IT = (schedules.c.tenant == bindparam("of_tenant")) & (schedules.c.id == bindparam("of_id"))
_ONE = select(schedules).where(_IS_IT)
_ALL = select(schedules).where(schedules.c.tenant == bindparam("of_tenant"))
_COUNT = select(func.count()).select_from(schedules).where(schedules.c.tenant == bindparam("of_tenant"))
_ADD = insert(schedules)
_CHANGE = update(schedules).where(_IS_IT)
_DELETE = delete(schedules).where(_IS_IT)
_LIVE = select(
    exists().where(
        jobs.c.tenant == bindparam("of_tenant"),
        jobs.c.schedule == bindparam("of_id"),
        OF_A_SCHEDULE,
        jobs.c.end_time.is_(None),
    )
)
_DUE = (
    select(schedules.c.tenant, schedules.c.id)
    .where(text("schedules.state = 1"), schedules.c.next_run_time <= bindparam("now"))
    .order_by(schedules.c.next_run_time)
    .limit(bindparam("most"))
)


class SqlScheduleStore:
    """The ScheduleStore of ports, over the same database as the jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, schedule: Schedule, request: IdempotencyKey | None = None) -> Schedule:
        """See ScheduleStore.add."""
        return await idempotency.written(self._database, partial(_add, schedule=schedule, request=request))

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """See ScheduleStore.get."""
        return await self._database.read(partial(_get, tenant=tenant, schedule_id=schedule_id))

    async def all(self, tenant: str) -> Sequence[Schedule]:
        """See ScheduleStore.all."""
        found = await self._database.read(lambda c: list(c.execute(_ALL, {"of_tenant": tenant}).mappings()))
        return [schedule_rows.schedule_of(row) for row in found]

    async def change(self, tenant: str, schedule_id: str, rule: Rule) -> Schedule:
        """See ScheduleStore.change."""

        def op(connection: Connection) -> Schedule:
            before = _get(connection, tenant, schedule_id, lock=True)
            return _written(connection, before, rule(before))

        return await self._database.write(op)

    async def run(
        self, tenant: str, schedule_id: str, rule: RunRule, request: IdempotencyKey | None = None
    ) -> Run:
        """See ScheduleStore.run."""

        def op(connection: Connection) -> Run:
            before = _get(connection, tenant, schedule_id, lock=True)
            if (answer := idempotency.recorded_response(connection, request)) is not None:
                return Run(before=before, after=before, job=get_job(connection, answer.ids[0]))
            run = rule(before, before.skip_overlapping and _live(connection, before))
            if run.job is not None:
                births_store.insert(connection, [run.job])
                idempotency.record_response(connection, request, RecordedResponse([run.job.id]))
            _written(connection, before, run.after)
            return run

        return await idempotency.written(self._database, op)

    async def delete(self, tenant: str, schedule_id: str, check: Callable[[Schedule], None]) -> None:
        """See ScheduleStore.delete."""

        def op(connection: Connection) -> None:
            check(_get(connection, tenant, schedule_id, lock=True))
            connection.execute(_DELETE, {"of_tenant": tenant, "of_id": schedule_id})

        await self._database.write(op)

    async def due(self, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """See ScheduleStore.due."""
        asked = {"now": micros(now), "most": limit}
        found = await self._database.read(lambda connection: connection.execute(_DUE, asked).all())
        return [(row.tenant, row.id) for row in found]


def _add(connection: Connection, schedule: Schedule, request: IdempotencyKey | None) -> Schedule:
    if (answer := idempotency.recorded_response(connection, request)) is not None:
        return _get(connection, schedule.tenant, answer.ids[0])
    key = {"of_tenant": schedule.tenant, "of_id": schedule.id}
    if connection.execute(_COUNT, key).scalar_one() >= model.MOST:
        raise model.too_many()
    added = connection.execute(
        idempotency.insert_new(connection, schedules).returning(schedules.c.id),
        schedule_rows.row_of(schedule) | {"seen_count": 0},
    )
    if added.first() is None:
        raise model.exists(schedule)
    idempotency.record_response(connection, request, RecordedResponse([schedule.id]))
    return schedule


def _get(connection: Connection, tenant: str, schedule_id: str, *, lock: bool = False) -> Schedule:
    statement: Any = _ONE.with_for_update() if lock else _ONE
    found = connection.execute(statement, {"of_tenant": tenant, "of_id": schedule_id}).mappings().first()
    if found is None:
        raise NotFound(f"schedules/{schedule_id}")
    return schedule_rows.schedule_of(found)


def _written(connection: Connection, before: Schedule, after: Schedule) -> Schedule:
    if after is not before:
        key = {"of_tenant": before.tenant, "of_id": before.id}
        connection.execute(_CHANGE, key | schedule_rows.row_of(after))
    return after


def _live(connection: Connection, schedule: Schedule) -> bool:
    key = {"of_tenant": schedule.tenant, "of_id": schedule.id}
    return bool(connection.execute(_LIVE, key).scalar())
