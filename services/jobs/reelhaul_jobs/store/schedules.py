"""The ScheduleStore in SQL: a run reads its row, applies a pure rule, and writes row and job together."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from google.rpc import status_pb2
from sqlalchemy import Connection, bindparam, delete, exists, func, select, text, update

from reelhaul.jobs.v1 import job_pb2
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.job_template import template_from_proto, template_to_proto
from reelhaul_jobs.model.schedule import CatchUp, Run, Schedule, ScheduleState
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.schedules import RunRule, ScheduleRule
from reelhaul_jobs.store import idempotency, listing, rows, webhook_outbox
from reelhaul_jobs.store.idempotency import RecordedResponse
from reelhaul_jobs.store.insert import insert as insert_jobs
from reelhaul_jobs.store.quotas import QuotaLedger
from reelhaul_jobs.store.rows import from_micros, to_micros, to_micros_or_none
from reelhaul_jobs.store.tables import HAS_SCHEDULE, jobs, schedules, seen_entries
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.database import Database

_BY_ID = (schedules.c.tenant == bindparam("of_tenant")) & (schedules.c.id == bindparam("of_id"))
_SCHEDULE = select(schedules).where(_BY_ID)
_SCHEDULES = select(schedules).where(schedules.c.tenant == bindparam("of_tenant"))
_COUNT = select(func.count()).select_from(schedules).where(schedules.c.tenant == bindparam("of_tenant"))
_UPDATE = update(schedules).where(_BY_ID)
_DELETE = delete(schedules).where(_BY_ID)
_HAS_LIVE_JOB = select(
    exists().where(
        jobs.c.tenant == bindparam("of_tenant"),
        jobs.c.schedule == bindparam("of_id"),
        HAS_SCHEDULE,
        jobs.c.end_time.is_(None),
    )
)
_DUE = (
    select(schedules.c.tenant, schedules.c.id)
    .where(text("schedules.state = 1"), schedules.c.next_run_time <= bindparam("now"))
    .order_by(schedules.c.next_run_time)
    .limit(bindparam("most"))
)
# Two concurrent runs over the same playlist must not both take an entry for new.
_LOCK = (
    select(schedules.c.id)
    .where(schedules.c.tenant == bindparam("of_tenant"), schedules.c.id == bindparam("of_schedule"))
    .with_for_update()
)
_SEEN = select(seen_entries.c.extractor, seen_entries.c.media_id).where(
    seen_entries.c.tenant == bindparam("of_tenant"),
    seen_entries.c.schedule == bindparam("of_schedule"),
    seen_entries.c.media_id.in_(bindparam("media_ids", expanding=True)),
)
_ADD_SEEN_COUNT = (
    update(schedules)
    .where(schedules.c.tenant == bindparam("of_tenant"), schedules.c.id == bindparam("of_schedule"))
    .values(seen_count=schedules.c.seen_count + bindparam("more"))
)


class SqlScheduleStore:
    """The ScheduleStore of one database, which also has the jobs."""

    def __init__(self, database: Database, ledger: QuotaLedger | None = None) -> None:
        """*ledger*: None counts no jobs against quotas."""
        self._database = database
        self._ledger = ledger or QuotaLedger()

    async def add(self, schedule: Schedule, request: IdempotencyKey | None = None) -> Schedule:
        return await idempotency.write(self._database, partial(_add, schedule=schedule, request=request))

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        return await self._database.read(partial(_get, tenant=tenant, schedule_id=schedule_id))

    async def list_all(self, tenant: str) -> Sequence[Schedule]:
        found = await self._database.read(
            lambda c: list(c.execute(_SCHEDULES, {"of_tenant": tenant}).mappings())
        )
        return [schedule_from_row(row) for row in found]

    async def change(self, tenant: str, schedule_id: str, rule: ScheduleRule) -> Schedule:
        def op(connection: Connection) -> Schedule:
            before = _get(connection, tenant, schedule_id, lock=True)
            return _update(connection, before, rule(before))

        return await self._database.write(op)

    async def run(
        self, tenant: str, schedule_id: str, rule: RunRule, request: IdempotencyKey | None = None
    ) -> Run:
        def op(connection: Connection) -> Run:
            before = _get(connection, tenant, schedule_id, lock=True)
            if (response := idempotency.find_response(connection, request)) is not None:
                return Run(before=before, after=before, job=listing.get_job(connection, response.ids[0]))
            admitted = list[Job]()

            def admit(job: Job) -> None:
                admitted.extend(self._ledger.admit(connection, [job]))

            run = rule(before, before.skip_overlapping and _has_live_job(connection, before), admit)
            if run.job is not None:
                run = replace(run, job=admitted[0])
                insert_jobs(connection, admitted)
                idempotency.record_response(connection, request, RecordedResponse([admitted[0].id]))
            _update(connection, before, run.after)
            if run.failed:
                row = _row_from_schedule(run.after) | {"seen_count": run.after.seen_count}
                webhook_outbox.record_schedule_failure(connection, run.after, row)
            return run

        return await idempotency.write(self._database, op)

    async def delete(self, tenant: str, schedule_id: str, check: Callable[[Schedule], None]) -> None:
        def op(connection: Connection) -> None:
            check(_get(connection, tenant, schedule_id, lock=True))
            connection.execute(_DELETE, {"of_tenant": tenant, "of_id": schedule_id})

        await self._database.write(op)

    async def list_due(self, now: datetime, limit: int) -> Sequence[tuple[str, str]]:
        values = {"now": to_micros(now), "most": limit}
        found = await self._database.read(lambda connection: connection.execute(_DUE, values).all())
        return [(row.tenant, row.id) for row in found]


def _add(connection: Connection, schedule: Schedule, request: IdempotencyKey | None) -> Schedule:
    if (response := idempotency.find_response(connection, request)) is not None:
        return _get(connection, schedule.tenant, response.ids[0])
    key = {"of_tenant": schedule.tenant, "of_id": schedule.id}
    if connection.execute(_COUNT, key).scalar_one() >= model.MAX_PER_TENANT:
        raise model.quota_exceeded(schedule)
    inserted = connection.execute(
        idempotency.insert_or_ignore(connection, schedules).returning(schedules.c.id),
        _row_from_schedule(schedule) | {"seen_count": 0},
    )
    if inserted.first() is None:
        raise model.already_exists(schedule)
    idempotency.record_response(connection, request, RecordedResponse([schedule.id]))
    return schedule


def _get(connection: Connection, tenant: str, schedule_id: str, *, lock: bool = False) -> Schedule:
    statement: Any = _SCHEDULE.with_for_update() if lock else _SCHEDULE
    row = connection.execute(statement, {"of_tenant": tenant, "of_id": schedule_id}).mappings().first()
    if row is None:
        raise NotFound(f"schedules/{schedule_id}")
    return schedule_from_row(row)


def _update(connection: Connection, before: Schedule, after: Schedule) -> Schedule:
    if after is not before:
        key = {"of_tenant": before.tenant, "of_id": before.id}
        connection.execute(_UPDATE, key | _row_from_schedule(after))
    return after


def _has_live_job(connection: Connection, schedule: Schedule) -> bool:
    key = {"of_tenant": schedule.tenant, "of_id": schedule.id}
    return bool(connection.execute(_HAS_LIVE_JOB, key).scalar())


def list_seen_entries(connection: Connection, job: Job, entry_keys: Sequence[str]) -> Set[tuple[str, str]]:
    """Return which of *entry_keys* the schedule of *job* has seen, with their extractors."""
    if not (job.schedule and job.expansion and job.expansion.new_entries_only):
        return frozenset()
    values = {"of_tenant": job.tenant, "of_schedule": job.schedule, "media_ids": list(entry_keys)}
    connection.execute(_LOCK, values)
    return {(row.extractor, row.media_id) for row in connection.execute(_SEEN, values)}


def add_seen_entries(connection: Connection, job: Job, entries: Sequence[tuple[str, str]]) -> None:
    """Record *entries* as seen by the schedule of *job*, if it still exists."""
    key = {"of_tenant": job.tenant, "of_schedule": job.schedule}
    if not entries or connection.execute(_LOCK, key).first() is None:
        return
    values = [
        {"tenant": job.tenant, "schedule": job.schedule, "extractor": extractor, "media_id": media_id}
        for extractor, media_id in entries
    ]
    connection.execute(idempotency.insert_or_ignore(connection, seen_entries), values)
    connection.execute(_ADD_SEEN_COUNT, {**key, "more": len(values)})


def _row_from_schedule(schedule: Schedule) -> dict[str, Any]:
    """Return all columns of *schedule* except ``seen_count``, which add_seen_entries increments."""
    return {
        "tenant": schedule.tenant,
        "id": schedule.id,
        "api_key": schedule.api_key,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "template": template_to_proto(schedule.template).SerializeToString(),
        "skip_overlapping": schedule.skip_overlapping,
        "new_entries_only": schedule.new_entries_only,
        "catch_up": int(schedule.catch_up),
        "end_time": to_micros_or_none(schedule.end_time),
        "state": int(schedule.state),
        "next_run_time": to_micros_or_none(schedule.next_run_time),
        "last_job": schedule.last_job,
        "last_error": schedule.last_error.SerializeToString() if schedule.last_error else None,
        "failures": schedule.failures,
        "revision": schedule.revision,
        "create_time": to_micros(schedule.create_time),
        "update_time": to_micros(schedule.update_time),
    }


def schedule_from_row(row: rows.Row) -> Schedule:
    """Return the schedule of a row with all columns."""
    created = from_micros(row["create_time"])
    error = row["last_error"]
    return Schedule(
        tenant=row["tenant"],
        id=row["id"],
        api_key=row["api_key"],
        cron=row["cron"],
        time_zone=row["time_zone"],
        template=template_from_proto(job_pb2.Job.FromString(row["template"]), row["tenant"], created),
        skip_overlapping=bool(row["skip_overlapping"]),
        new_entries_only=bool(row["new_entries_only"]),
        catch_up=CatchUp(row["catch_up"]),
        end_time=None if row["end_time"] is None else from_micros(row["end_time"]),
        state=ScheduleState(row["state"]),
        next_run_time=None if row["next_run_time"] is None else from_micros(row["next_run_time"]),
        last_job=row["last_job"],
        last_error=None if error is None else status_pb2.Status.FromString(error),
        failures=row["failures"],
        seen_count=row["seen_count"],
        revision=row["revision"],
        create_time=created,
        update_time=from_micros(row["update_time"]),
    )
