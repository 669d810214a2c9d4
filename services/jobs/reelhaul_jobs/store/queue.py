"""The QueueStore in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, literal, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.queue_counts import QueueCounts
from reelhaul_jobs.model.rate_limit import WORKER_TIMEOUT, SiteStatus
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery
from reelhaul_jobs.store import dispatch_queries, queue_counts, quotas, rate_limits, retention, rows
from reelhaul_jobs.store.quotas import ConcurrencyLimits
from reelhaul_jobs.store.tables import (
    HAS_PARENT,
    IN_FLIGHT,
    events,
    jobs,
    leaders,
    request_ids,
    schedules,
    workers,
)
from reelhaul_jobs.store.webhook_tables import IS_PENDING, webhook_deliveries
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement

# A scrape waits no longer.
_COUNT_SECONDS = 5.0
_WORKER_SLOTS = Statement(
    select(func.coalesce(func.sum(workers.c.slots), 0)).where(workers.c.seen_time > bindparam("since"))
)
_DUE = (
    select(jobs.c.id)
    .where(IN_FLIGHT, jobs.c.lane == bindparam("of_lane"), jobs.c.due <= bindparam("before"))
    .order_by(jobs.c.due)
    .limit(bindparam("most"))
)
_DUE_AFTER = (
    select(jobs.c.id)
    .where(IN_FLIGHT, jobs.c.lane == bindparam("of_lane"), jobs.c.due > bindparam("after"))
    .order_by(jobs.c.due)
    .limit(bindparam("most"))
)
_EXPIRY_PENDING = (
    select(jobs)
    .where(jobs.c.confirm_time.is_not(None), jobs.c.confirm_time <= bindparam("now"))
    .order_by(jobs.c.confirm_time)
    .limit(bindparam("most"))
)
_CASCADE_CANCELLATIONS = (
    select(jobs)
    .where(jobs.c.cascade_time.is_not(None))
    .order_by(jobs.c.cascade_time)
    .limit(bindparam("most"))
)
_ACTIVE_CHILDREN = (
    select(jobs.c.id)
    .where(
        jobs.c.parent == bindparam("job"),
        HAS_PARENT,
        jobs.c.end_time.is_(None),
        jobs.c.state != int(State.CANCELLING),
    )
    .limit(bindparam("most"))
)
_EXPIRED = (
    select(jobs.c.id)
    .where(
        jobs.c.end_time.is_not(None),
        jobs.c.delete_time.is_(None),
        jobs.c.expire_time <= bindparam("now"),
        # Deliveries end within a day.
        jobs.c.delivery_time.is_(None),
    )
    .order_by(jobs.c.expire_time)
    .limit(bindparam("most"))
)
_DELIVERIES = (
    select(
        jobs.c.id,
        jobs.c.tenant,
        jobs.c.delivery_time,
        func.row_number()
        .over(partition_by=jobs.c.tenant, order_by=(jobs.c.delivery_time, jobs.c.id))
        .label("number"),
    )
    .where(jobs.c.delivery_time.is_not(None), jobs.c.delivery_time <= bindparam("now"))
    .subquery()
)
_DELIVERIES_DUE = (
    select(_DELIVERIES.c.id, _DELIVERIES.c.tenant)
    .where(_DELIVERIES.c.number <= bindparam("per_tenant"))
    .order_by(_DELIVERIES.c.delivery_time)
    .limit(bindparam("most"))
)
# Of so many pending deliveries the index has no first one: they are due now.
_MAX_PENDING = 1000
_PENDING = (
    select(webhook_deliveries.c.due, webhook_deliveries.c.tenant)
    .where(IS_PENDING)
    .limit(_MAX_PENDING)
    .subquery()
)
_NEXT_DUE = select(
    *(
        select(func.min(jobs.c.due)).where(IN_FLIGHT, jobs.c.lane == int(stage)).scalar_subquery()
        for stage in (QueueStage.LATER, QueueStage.PUBLISHED, QueueStage.LEASED)
    ),
    select(func.min(jobs.c.confirm_time)).where(jobs.c.confirm_time.is_not(None)).scalar_subquery(),
    select(func.min(jobs.c.delivery_time)).where(jobs.c.delivery_time.is_not(None)).scalar_subquery(),
    select(func.min(schedules.c.next_run_time)).where(text("schedules.state = 1")).scalar_subquery(),
    select(case((func.count() == _MAX_PENDING, 0), else_=func.min(_PENDING.c.due))).scalar_subquery(),
)
_MARK_EXPIRY_CONFIRMED = Statement(
    update(jobs).where(jobs.c.id == bindparam("job")).values(confirm_time=bindparam("again"))
)


class SqlQueueStore:
    """The QueueStore of one database, which also has the jobs."""

    def __init__(self, database: Database, limits: ConcurrencyLimits | None = None) -> None:
        """*limits* of keys and tenants; None: jobs are not counted against quotas."""
        self._database = database
        self._limits = limits

    async def get_backlog(self, query: BacklogQuery, now: datetime) -> Backlog:
        def op(connection: Connection) -> Backlog:
            slots = _count_worker_slots(connection, now)
            return dispatch_queries.get_backlog(connection, query, slots, now, self._limits)

        return await self._database.read(op)

    async def mark_published(
        self, ready: Sequence[ReadyJob], until: datetime, leader: str | None
    ) -> Sequence[ReadyJob]:
        return await self._database.write(
            lambda connection: dispatch_queries.mark_published(connection, ready, until, leader)
        )

    async def mark_ready(self, published: Sequence[ReadyJob]) -> None:
        await self._database.write(lambda connection: dispatch_queries.mark_ready(connection, published))

    async def list_published(self, limit: int) -> Sequence[ReadyJob]:
        return await self._database.read(
            lambda connection: dispatch_queries.list_published(connection, limit)
        )

    async def get_site_status(self, site: str, now: datetime) -> SiteStatus:
        return await self._database.read(
            lambda connection: dispatch_queries.get_site_status(connection, site, now)
        )

    async def count_queue(self, now: datetime) -> QueueCounts:
        def op(connection: Connection) -> QueueCounts:
            slots = _count_worker_slots(connection, now)
            return queue_counts.count_queue(connection, now, slots, self._limits)

        return await self._database.scan(op, seconds=_COUNT_SECONDS)

    async def list_due(self, stage: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        return await self._list_ids(
            _DUE, {"of_lane": int(stage), "before": rows.to_micros(before), "most": limit}
        )

    async def list_due_after(self, stage: QueueStage, after: datetime, limit: int) -> Sequence[str]:
        return await self._list_ids(
            _DUE_AFTER, {"of_lane": int(stage), "after": rows.to_micros(after), "most": limit}
        )

    async def count_in_stages(self, stages: Sequence[QueueStage]) -> int:
        statement = select(func.count()).where(IN_FLIGHT, jobs.c.lane.in_([int(stage) for stage in stages]))
        return await self._database.read(lambda connection: int(connection.execute(statement).scalar_one()))

    async def record_worker_heartbeat(
        self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)
    ) -> None:
        # Each further egress has a row of its own, without slots.
        first, *others = egresses
        by_name = {worker: (slots, first)} | {f"{worker[:190]}/{egress}": (0, egress) for egress in others}
        values = [
            {"name": name, "slots": slots, "seen_time": rows.to_micros(now), "egress": egress}
            for name, (slots, egress) in by_name.items()
        ]
        await self._database.write(lambda connection: _upsert_workers(connection, values))

    async def count_worker_slots(self, now: datetime) -> int:
        return await self._database.read(lambda connection: _count_worker_slots(connection, now))

    async def list_expiry_pending(self, now: datetime, limit: int) -> Sequence[Job]:
        return await self._list_jobs(_EXPIRY_PENDING, {"now": rows.to_micros(now), "most": limit})

    async def list_cascade_cancellations(self, limit: int) -> Sequence[Job]:
        return await self._list_jobs(_CASCADE_CANCELLATIONS, {"most": limit})

    async def list_active_children(self, parent: str, limit: int) -> Sequence[str]:
        return await self._list_ids(_ACTIVE_CHILDREN, {"job": parent, "most": limit})

    async def list_expired(self, now: datetime, limit: int) -> Sequence[str]:
        return await self._list_ids(_EXPIRED, {"now": rows.to_micros(now), "most": limit})

    async def list_deliveries_due(
        self, now: datetime, per_tenant: int, limit: int
    ) -> Sequence[tuple[str, str]]:
        values = {"now": rows.to_micros(now), "per_tenant": per_tenant, "most": limit}
        found = await self._database.read(
            lambda connection: connection.execute(_DELIVERIES_DUE, values).all()
        )
        return [(row.id, row.tenant) for row in found]

    async def mark_expiry_confirmed(self, job_id: str, again: datetime | None) -> None:
        values = {"job": job_id, "again": rows.to_micros_or_none(again)}
        await self._database.write(lambda connection: _MARK_EXPIRY_CONFIRMED.run(connection, values))

    async def purge(self, job_id: str) -> None:
        await self._database.write(lambda connection: quotas.purge_job(connection, job_id))

    async def delete_old_records(
        self, events_before: datetime, requests_before: datetime, limit: int
    ) -> bool:
        times = ((events.c.time, events_before), (request_ids.c.time, requests_before))
        deleted = [
            await self._database.write(
                partial(retention.delete_oldest, time=time, before=before, limit=limit)
            )
            for time, before in times
        ]
        return limit in deleted

    async def delete_old_usage(self, before: datetime) -> None:
        await self._database.write(lambda connection: quotas.delete_old_days(connection, before))

    async def delete_idle_rate_limits(self, before: datetime) -> None:
        await self._database.write(lambda connection: rate_limits.delete_idle(connection, before))

    async def get_next_due_time(self) -> datetime | None:
        found = await self._database.read(lambda connection: connection.execute(_NEXT_DUE).one())
        times: list[int] = [each for each in found if each is not None]
        return rows.from_micros(min(times)) if times else None

    def count_writes(self) -> int:
        return self._database.writes

    async def wait_for_write(self, seen: int, seconds: float) -> None:
        await self._database.wait_for_write(seen, seconds)

    async def acquire_leadership(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        values = {"loop": loop, "holder": holder, "until": rows.to_micros(now + lasting)}
        # Clocks of replicas differ a little.
        latest = rows.to_micros(now + 2 * lasting)
        return await self._database.write(
            lambda connection: _acquire_leadership(connection, values, rows.to_micros(now), latest)
        )

    async def release_leadership(self, loop: str, holder: str) -> None:
        ended = delete(leaders).where(leaders.c.loop == loop, leaders.c.holder == holder)
        await self._database.write(lambda connection: connection.execute(ended) and None)

    async def _list_ids(self, statement: Any, values: dict[str, Any]) -> Sequence[str]:
        return await self._database.read(
            lambda connection: list(connection.execute(statement, values).scalars())
        )

    async def _list_jobs(self, statement: Any, values: dict[str, Any]) -> Sequence[Job]:
        found = await self._database.read(
            lambda connection: list(connection.execute(statement, values).mappings())
        )
        return [rows.job_from_row(row) for row in found]


def _count_worker_slots(connection: Connection, now: datetime) -> int:
    return int(_WORKER_SLOTS.column(connection, {"since": rows.to_micros(now - WORKER_TIMEOUT)})[0])


def _upsert_workers(connection: Connection, values: list[dict[str, Any]]) -> None:
    statement = _dialect(connection).insert(workers)
    new_values = {name: statement.excluded[name] for name in ("slots", "seen_time", "egress")}
    upsert = statement.on_conflict_do_update(index_elements=[workers.c.name], set_=new_values)
    connection.execute(upsert, values)


def _acquire_leadership(connection: Connection, values: dict[str, Any], now: int, latest: int) -> bool:
    statement = _dialect(connection).insert(leaders).values(values)
    has_ended = or_(leaders.c.until <= literal(now), leaders.c.until > literal(latest))
    upsert = statement.on_conflict_do_update(
        index_elements=[leaders.c.loop],
        set_={"holder": statement.excluded.holder, "until": statement.excluded.until},
        where=or_(leaders.c.holder == values["holder"], has_ended),
    )
    return connection.execute(upsert.returning(leaders.c.holder)).first() is not None


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite
