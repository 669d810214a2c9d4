"""The StateEventStore in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, select, tuple_

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.state_events import StateEvent
from reelhaul_jobs.store import rows, rows_by_id
from reelhaul_jobs.store.tables import events, jobs
from reelhaul_runtime.sql.database import Database

_SORT_KEY = (events.c.time, events.c.job, events.c.revision)
_AFTER = tuple_(*_SORT_KEY) > tuple_(bindparam("time"), bindparam("job"), bindparam("revision"))


def _select_events(*where: ColumnElement[bool]) -> Any:
    columns = select(*_SORT_KEY, events.c.old_state).join(jobs, jobs.c.id == events.c.job)
    return columns.where(_AFTER, *where).order_by(*_SORT_KEY).limit(bindparam("most"))


_ALL = _select_events()
_OF_TENANT = _select_events(jobs.c.tenant == bindparam("tenant"))
_OF_JOBS = _select_events(events.c.job.in_(bindparam("jobs", expanding=True)))


class SqlStateEventStore:
    """The StateEventStore of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_state_events(
        self, after: StateEvent, limit: int, *, tenant: str | None = None, among: Sequence[str] | None = None
    ) -> Sequence[StateEvent]:
        values: dict[str, Any] = {
            "time": rows.to_micros(after.time),
            "job": after.job_id,
            "revision": after.revision,
            "most": limit,
        }
        statement = _ALL
        if among is not None:
            statement, values["jobs"] = _OF_JOBS, list(among)
        elif tenant is not None:
            statement, values["tenant"] = _OF_TENANT, tenant
        found = await self._database.read(lambda connection: connection.execute(statement, values).all())
        return [_event_from_row(row) for row in found]

    async def get_with_deleted(self, job_ids: Sequence[str]) -> Sequence[Job]:
        found = await self._database.read(lambda connection: rows_by_id.read(connection, job_ids))
        return [rows.job_from_row(row) for row in found.values()]


def _event_from_row(row: Any) -> StateEvent:
    old_state = None if row.old_state is None else State(row.old_state)
    return StateEvent(rows.from_micros(row.time), row.job, row.revision, old_state)
