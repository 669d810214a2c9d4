"""Moves in SQL: the events of all jobs, in the order of their times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, select, tuple_

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.state_events import StateEvent
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import events, jobs
from reelhaul_runtime.sql.database import Database

_PLACE = (events.c.time, events.c.job, events.c.revision)
_BEHIND = tuple_(*_PLACE) > tuple_(bindparam("time"), bindparam("job"), bindparam("revision"))


def _moves(*wanted: ColumnElement[bool]) -> Any:
    columns = select(*_PLACE, events.c.old_state).join(jobs, jobs.c.id == events.c.job)
    return columns.where(_BEHIND, *wanted).order_by(*_PLACE).limit(bindparam("most"))


_ALL = _moves()
_OF_TENANT = _moves(jobs.c.tenant == bindparam("tenant"))
_AMONG = _moves(events.c.job.in_(bindparam("jobs", expanding=True)))
_ROWS = select(jobs).where(jobs.c.id.in_(bindparam("jobs", expanding=True)))


class SqlStateEventStore:
    """The MoveStore of ports, over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_state_events(
        self, after: StateEvent, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[StateEvent]:
        """See MoveStore.moves."""
        asked: dict[str, Any] = {
            "time": rows.to_micros(after.time),
            "job": after.job_id,
            "revision": after.revision,
            "most": limit,
        }
        statement = _ALL
        if among is not None:
            statement, asked["jobs"] = _AMONG, list(among)
        elif tenant is not None:
            statement, asked["tenant"] = _OF_TENANT, tenant
        found = await self._database.read(lambda connection: connection.execute(statement, asked).all())
        return [_move_of(row) for row in found]

    async def get_with_deleted(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """See MoveStore.as_they_are."""
        asked = {"jobs": list(job_ids)}
        found = await self._database.read(
            lambda connection: connection.execute(_ROWS, asked).mappings().all()
        )
        return [rows.job_from_row(row) for row in found]


def _move_of(row: Any) -> StateEvent:
    left = None if row.old_state is None else State(row.old_state)
    return StateEvent(rows.from_micros(row.time), row.job, row.revision, left)
