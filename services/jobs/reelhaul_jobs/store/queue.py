"""The queue in SQL: what the loops pick, look after and lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul_jobs.model.fair_scheduling import ReadyJob
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import WORKER_TIMEOUT, SiteStatus
from reelhaul_jobs.model.states import QueueStage, State
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery
from reelhaul_jobs.store import dispatch_queries, rate_limits, rows
from reelhaul_jobs.store.tables import HAS_PARENT, IN_FLIGHT, events, jobs, leaders, request_ids, workers
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement

_SLOTS = Statement(
    select(func.coalesce(func.sum(workers.c.slots), 0)).where(workers.c.seen_time > bindparam("since"))
)
_DUE = (
    select(jobs.c.id)
    .where(IN_FLIGHT, jobs.c.lane == bindparam("of_lane"), jobs.c.due <= bindparam("before"))
    .order_by(jobs.c.due)
    .limit(bindparam("most"))
)
_UNCONFIRMED = (
    select(jobs)
    .where(jobs.c.confirm_time.is_not(None), jobs.c.confirm_time <= bindparam("now"))
    .order_by(jobs.c.confirm_time)
    .limit(bindparam("most"))
)
_CASCADING = (
    select(jobs)
    .where(jobs.c.cascade_time.is_not(None))
    .order_by(jobs.c.cascade_time)
    .limit(bindparam("most"))
)
_LIVING = (
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
    .where(jobs.c.end_time.is_not(None), jobs.c.delete_time.is_(None), jobs.c.expire_time <= bindparam("now"))
    .order_by(jobs.c.expire_time)
    .limit(bindparam("most"))
)
_CONFIRMED = Statement(
    update(jobs).where(jobs.c.id == bindparam("job")).values(confirm_time=bindparam("again"))
)


class SqlQueueStore:
    """The QueueStore of ports, over the same database as the jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_backlog(self, look: BacklogQuery, now: datetime) -> Backlog:
        """See QueueStore.backlog."""

        def op(connection: Connection) -> Backlog:
            found = dispatch_queries.backlog(connection, look, now)
            return replace(found, slots=_slots(connection, now))

        return await self._database.read(op)

    async def mark_published(
        self, ready: Sequence[ReadyJob], until: datetime, leader: str | None
    ) -> Sequence[ReadyJob]:
        """See QueueStore.take."""
        return await self._database.write(
            lambda connection: dispatch_queries.mark_published(connection, ready, until, leader)
        )

    async def mark_ready(self, ready: Sequence[ReadyJob]) -> None:
        """See QueueStore.put_back."""
        await self._database.write(lambda connection: dispatch_queries.mark_ready(connection, ready))

    async def list_published(self, limit: int) -> Sequence[ReadyJob]:
        """See QueueStore.outstanding."""
        return await self._database.read(lambda connection: dispatch_queries.outstanding(connection, limit))

    async def get_site_status(self, site: str, now: datetime) -> SiteStatus:
        """See QueueStore.site."""
        return await self._database.read(lambda connection: dispatch_queries.site_now(connection, site, now))

    async def list_due(self, lane: QueueStage, before: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.due."""
        asked = {"of_lane": int(lane), "before": rows.to_micros(before), "most": limit}
        return await self._database.read(lambda connection: list(connection.execute(_DUE, asked).scalars()))

    async def count_in_stages(self, lanes: Sequence[QueueStage]) -> int:
        """See QueueStore.count."""
        statement = select(func.count()).where(IN_FLIGHT, jobs.c.lane.in_([int(lane) for lane in lanes]))
        return await self._database.read(lambda connection: int(connection.execute(statement).scalar_one()))

    async def record_worker_heartbeat(
        self, worker: str, slots: int, now: datetime, egresses: Sequence[str] = ("",)
    ) -> None:
        """See QueueStore.seen. Each further egress has a row of its own, without slots."""
        first, *others = egresses
        named = {worker: (slots, first)} | {f"{worker[:190]}/{egress}": (0, egress) for egress in others}
        told = [
            {"name": name, "slots": number, "seen_time": rows.to_micros(now), "egress": egress}
            for name, (number, egress) in named.items()
        ]
        await self._database.write(lambda connection: _see(connection, told))

    async def count_worker_slots(self, now: datetime) -> int:
        """See QueueStore.slots."""
        return await self._database.read(lambda connection: _slots(connection, now))

    async def list_expiry_pending(self, now: datetime, limit: int) -> Sequence[Job]:
        """See QueueStore.unconfirmed."""
        asked = {"now": rows.to_micros(now), "most": limit}
        found = await self._database.read(
            lambda connection: list(connection.execute(_UNCONFIRMED, asked).mappings())
        )
        return [rows.job_from_row(row) for row in found]

    async def list_cascade_cancellations(self, limit: int) -> Sequence[Job]:
        """See QueueStore.cascading."""
        found = await self._database.read(lambda c: list(c.execute(_CASCADING, {"most": limit}).mappings()))
        return [rows.job_from_row(row) for row in found]

    async def list_active_children(self, parent: str, limit: int) -> Sequence[str]:
        """See QueueStore.living."""
        asked = {"job": parent, "most": limit}
        return await self._database.read(
            lambda connection: list(connection.execute(_LIVING, asked).scalars())
        )

    async def list_expired(self, now: datetime, limit: int) -> Sequence[str]:
        """See QueueStore.expired."""
        asked = {"now": rows.to_micros(now), "most": limit}
        return await self._database.read(
            lambda connection: list(connection.execute(_EXPIRED, asked).scalars())
        )

    async def mark_expiry_confirmed(self, job_id: str, again: datetime | None) -> None:
        """See QueueStore.confirmed."""
        told = {"job": job_id, "again": None if again is None else rows.to_micros(again)}
        await self._database.write(lambda connection: _CONFIRMED.run(connection, told))

    async def purge(self, job_id: str) -> None:
        """See QueueStore.purge."""
        row = delete(jobs).where(jobs.c.id == job_id)
        await self._database.write(lambda connection: _executed(connection, row))

    async def delete_old_records(self, events_before: datetime, requests_before: datetime) -> None:
        """See QueueStore.forget."""
        old_events = delete(events).where(events.c.time < rows.to_micros(events_before))
        old_requests = delete(request_ids).where(request_ids.c.time < rows.to_micros(requests_before))
        for statement in (old_events, old_requests):
            await self._database.write(partial(_executed, statement=statement))

    async def delete_idle_rate_limits(self, before: datetime) -> None:
        """See QueueStore.forget_gates."""
        await self._database.write(lambda connection: rate_limits.delete_idle(connection, before))

    async def acquire_leadership(self, loop: str, holder: str, now: datetime, lasting: timedelta) -> bool:
        """See QueueStore.lead."""
        until = rows.to_micros(now + lasting)
        asked = {"loop": loop, "holder": holder, "until": until}
        return await self._database.write(lambda connection: _lead(connection, asked, rows.to_micros(now)))

    async def release_leadership(self, loop: str, holder: str) -> None:
        """See QueueStore.resign."""
        held = delete(leaders).where(leaders.c.loop == loop, leaders.c.holder == holder)
        await self._database.write(lambda connection: _executed(connection, held))


def _slots(connection: Connection, now: datetime) -> int:
    return int(_SLOTS.column(connection, {"since": rows.to_micros(now - WORKER_TIMEOUT)})[0])


def _executed(connection: Connection, statement: Any, values: Any = None) -> None:
    connection.execute(statement, values)


def _see(connection: Connection, seen: list[dict[str, Any]]) -> None:
    statement = _dialect(connection).insert(workers)
    told = {name: statement.excluded[name] for name in ("slots", "seen_time", "egress")}
    upsert = statement.on_conflict_do_update(index_elements=[workers.c.name], set_=told)
    connection.execute(upsert, seen)


def _lead(connection: Connection, asked: dict[str, Any], now: int) -> bool:
    statement = _dialect(connection).insert(leaders).values(asked)
    free = or_(leaders.c.holder == asked["holder"], leaders.c.until <= literal(now))
    taken = statement.on_conflict_do_update(
        index_elements=[leaders.c.loop],
        set_={"holder": statement.excluded.holder, "until": statement.excluded.until},
        where=free,
    )
    return connection.execute(taken.returning(leaders.c.holder)).first() is not None


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite
