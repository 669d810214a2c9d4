"""New jobs in SQL: all that are of one form by one statement, which is told the form once.

A row has some fifty columns; to bind them for each of a hundred jobs costs more than to write the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, Connection, String, Table, Text, text
from sqlalchemy.dialects import postgresql

from reelhaul_jobs.model import transition as changes
from reelhaul_jobs.model.job import FIELDS, Job
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import events, jobs
from reelhaul_runtime.sql.statements import Statement

# Columns in which jobs of one form differ; their values are told as an array of JSON for each job.
_OWN = (
    "id",
    "tenant",
    "url",
    "site",
    "batch_id",
    "traceparent",
    "parent",
    "position",
    "labels",
    "create_time",
    "update_time",
    "due",
)
_FORM = itemgetter(*(name for name in FIELDS if name not in _OWN))
_OF_EVENT = {"job": "id", "time": "update_time"}

_EACH = {
    "sqlite": ("json_each(:own)", "json_extract(value, '$[{}]')"),
    "postgresql": ("jsonb_array_elements(CAST(:own AS jsonb)) AS born(value)", "value ->> {}"),
}


def _insert(dialect: str, table: Table, own: Mapping[str, str], ending: str = "") -> Statement:
    """Rows of *table*, where *own* says which of its columns hold what jobs of one form differ in."""
    source, member = _EACH[dialect]

    def value(column: Column[Any]) -> str:
        if column.name not in own:
            return _typed(dialect, column, f":of_{column.name}")
        return _typed(dialect, column, member.format(_OWN.index(own[column.name])))

    names = ", ".join(f'"{column.name}"' for column in table.c)
    values = ", ".join(value(column) for column in table.c)
    # Without a condition SQLite would take ON CONFLICT for a join's.
    rows_of = f"SELECT {values} FROM {source} WHERE true{ending}"  # noqa: S608
    return Statement(text(f"INSERT INTO {table.name} ({names}) {rows_of}"))


def _typed(dialect: str, column: Column[Any], value: str) -> str:
    """*value* as PostgreSQL needs it; to SQLite all is one."""
    if dialect == "sqlite":
        return value
    # Not VARCHAR(64), which would cut off what is too long, and say nothing.
    kind = Text() if isinstance(column.type, String) else column.type
    return f"CAST({value} AS {kind.compile(postgresql.dialect())})"  # type: ignore[no-untyped-call]


_JOBS = {dialect: _insert(dialect, jobs, dict(zip(_OWN, _OWN, strict=True))) for dialect in _EACH}
_NEW_JOBS = {
    dialect: _insert(
        dialect, jobs, dict(zip(_OWN, _OWN, strict=True)), " ON CONFLICT DO NOTHING RETURNING id"
    )
    for dialect in _EACH
}
_EVENTS = {dialect: _insert(dialect, events, _OF_EVENT) for dialect in _EACH}


def insert(connection: Connection, new: Sequence[Job]) -> None:
    """Write *new* jobs with their first events. IntegrityError where one is there."""
    for alike in group_for_insert(new):
        own = varying_columns(alike)
        _JOBS[connection.dialect.name].run(connection, {"own": own, **_of_row(alike[0])})
        _EVENTS[connection.dialect.name].run(connection, {"own": own, **_of_event(alike[0])})


def insert_missing(connection: Connection, new: Sequence[Job]) -> set[str]:
    """Write those of *new* that are not there, with their first events: their ids."""
    added = set[str]()
    for alike in group_for_insert(new):
        told = {"own": varying_columns(alike), **_of_row(alike[0])}
        added.update(_NEW_JOBS[connection.dialect.name].column(connection, told))
        if born := [job for job in alike if job.id in added]:
            told = {"own": varying_columns(born), **_of_event(born[0])}
            _EVENTS[connection.dialect.name].run(connection, told)
    return added


def group_for_insert(new: Sequence[Job]) -> list[list[Job]]:
    return [list(alike) for _, alike in groupby(new, key=insert_group_key)]


def insert_group_key(job: Job) -> tuple[Any, ...]:
    """What two jobs must have in common to be written together; an event's time goes with the state."""
    return job.next_attempt_time, *_FORM(job.__dict__)


def varying_columns(alike: Sequence[Job]) -> str:
    return json.dumps([_own_of(job) for job in alike], separators=(",", ":"))


def _own_of(job: Job) -> list[Any]:
    return [
        job.id,
        job.tenant,
        job.url,
        job.site,
        job.batch_id,
        job.traceparent,
        job.parent,
        job.position,
        rows.to_json(job.labels),
        rows.to_micros(job.create_time),
        rows.to_micros(job.update_time),
        rows.to_micros_or_none(job.due),
    ]


def _of_row(job: Job) -> dict[str, Any]:
    return {f"of_{name}": value for name, value in rows.row_from_job(job).items() if name not in _OWN}


def _of_event(job: Job) -> dict[str, Any]:
    row = rows.row_from_event(job.id, changes.create_event(job, None))
    return {f"of_{name}": value for name, value in row.items() if name not in _OF_EVENT}
