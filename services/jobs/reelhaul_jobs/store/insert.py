"""Inserts new jobs with their first events: one statement for all jobs that differ in few columns.

A row has some fifty columns, and to bind them for each of a hundred jobs takes longer than to write the rows.
So the columns in which jobs of one request differ are bound as one JSON array, all others once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, Connection, String, Table, Text, text
from sqlalchemy.dialects import postgresql

from reelhaul_jobs import metrics
from reelhaul_jobs.model import transition
from reelhaul_jobs.model.job import FIELDS, Job
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import events, jobs
from reelhaul_runtime.sql.statements import Statement
from reelhaul_runtime.sql.writer import after_commit

# The columns in which jobs of one group may differ, in the order of their values in the JSON array.
_VARYING = (
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
_shared_fields = itemgetter(*(name for name in FIELDS if name not in _VARYING))
# Columns of the first event -> varying columns of its job.
_VARYING_OF_EVENT = {"job": "id", "time": "update_time"}

# For each dialect: a table of the array's elements, and the expression of one member of an element.
_ELEMENTS = {
    "sqlite": ("json_each(:varying)", "json_extract(value, '$[{}]')"),
    "postgresql": ("jsonb_array_elements(CAST(:varying AS jsonb)) AS elements(value)", "value ->> {}"),
}


def _insert_statement(dialect: str, table: Table, varying: Mapping[str, str], suffix: str = "") -> Statement:
    """Return an INSERT into *table*; *varying* maps its columns to those of the JSON array."""
    source, member = _ELEMENTS[dialect]

    def value(column: Column[Any]) -> str:
        if column.name not in varying:
            return _cast(dialect, column, f":of_{column.name}")
        return _cast(dialect, column, member.format(_VARYING.index(varying[column.name])))

    names = ", ".join(f'"{column.name}"' for column in table.c)
    values = ", ".join(value(column) for column in table.c)
    # Without a condition SQLite would parse ON CONFLICT as part of a join.
    query = f"SELECT {values} FROM {source} WHERE true{suffix}"  # noqa: S608
    return Statement(text(f"INSERT INTO {table.name} ({names}) {query}"))


def _cast(dialect: str, column: Column[Any], value: str) -> str:
    """Return *value* cast to the column's type for PostgreSQL; SQLite needs no cast."""
    if dialect == "sqlite":
        return value
    # Not to VARCHAR(64), which would silently truncate a longer value.
    column_type = Text() if isinstance(column.type, String) else column.type
    return f"CAST({value} AS {column_type.compile(postgresql.dialect())})"  # type: ignore[no-untyped-call]


_INSERT_JOBS = {
    dialect: _insert_statement(dialect, jobs, dict(zip(_VARYING, _VARYING, strict=True)))
    for dialect in _ELEMENTS
}
_INSERT_MISSING_JOBS = {
    dialect: _insert_statement(
        dialect, jobs, dict(zip(_VARYING, _VARYING, strict=True)), " ON CONFLICT DO NOTHING RETURNING id"
    )
    for dialect in _ELEMENTS
}
_INSERT_EVENTS = {dialect: _insert_statement(dialect, events, _VARYING_OF_EVENT) for dialect in _ELEMENTS}


def insert(connection: Connection, new: Sequence[Job]) -> None:
    """Insert *new* jobs with their first events. Raises IntegrityError if an id is taken."""
    dialect = connection.dialect.name
    for group in group_for_insert(new):
        varying = varying_columns(group)
        _INSERT_JOBS[dialect].run(connection, {"varying": varying, **_shared_columns(group[0])})
        _INSERT_EVENTS[dialect].run(connection, {"varying": varying, **_shared_event_columns(group[0])})
    after_commit(connection, partial(metrics.record_created, new))


def insert_missing(connection: Connection, new: Sequence[Job]) -> set[str]:
    """Insert those of *new* whose ids are not taken, with their first events. Return their ids."""
    dialect = connection.dialect.name
    inserted = set[str]()
    for group in group_for_insert(new):
        values = {"varying": varying_columns(group), **_shared_columns(group[0])}
        inserted.update(_INSERT_MISSING_JOBS[dialect].column(connection, values))
        if created := [job for job in group if job.id in inserted]:
            values = {"varying": varying_columns(created), **_shared_event_columns(created[0])}
            _INSERT_EVENTS[dialect].run(connection, values)
    created = [job for job in new if job.id in inserted]
    after_commit(connection, partial(metrics.record_created, created))
    return inserted


def group_for_insert(new: Sequence[Job]) -> list[list[Job]]:
    """Split *new* into runs of jobs that one statement can insert."""
    return [list(group) for _, group in groupby(new, key=insert_group_key)]


def insert_group_key(job: Job) -> tuple[Any, ...]:
    """Return what the jobs of one group have in common."""
    return job.next_attempt_time, *_shared_fields(job.__dict__)


def varying_columns(group: Sequence[Job]) -> str:
    """Return the varying columns of all jobs of *group* as a JSON array of arrays."""
    return json.dumps([_varying_values(job) for job in group], separators=(",", ":"))


def _varying_values(job: Job) -> list[Any]:
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


def _shared_columns(job: Job) -> dict[str, Any]:
    row = rows.row_from_job(job)
    return {f"of_{name}": value for name, value in row.items() if name not in _VARYING}


def _shared_event_columns(job: Job) -> dict[str, Any]:
    row = rows.row_from_event(job.id, transition.create_event(job, None))
    return {f"of_{name}": value for name, value in row.items() if name not in _VARYING_OF_EVENT}
