"""Pages of jobs in SQL: by keyset, so that the thousandth costs what the first does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from reelhaul_jobs import rows
from reelhaul_jobs.filters_sql import Kept, condition
from reelhaul_jobs.ports import Page, Query
from reelhaul_jobs.tables import jobs

#: Nothing is counted further than this: a count reads every row.
COUNTED = 10_000


def _as_it_is(value: Any) -> Any:
    return value


# Field of a filter -> its column, and how a value is kept there.
_FILTERED: Mapping[str, tuple[ColumnElement[Any], Kept]] = {
    "state": (jobs.c.state, _as_it_is),
    "kind": (jobs.c.kind, _as_it_is),
    "priority": (jobs.c.priority, _as_it_is),
    "url": (jobs.c.url, _as_it_is),
    "labels": (jobs.c.labels, _as_it_is),
    "batch_id": (jobs.c.batch_id, _as_it_is),
    "create_time": (jobs.c.create_time, rows.micros),
    "update_time": (jobs.c.update_time, rows.micros),
    "end_time": (jobs.c.end_time, rows.micros),
    "error.reason": (jobs.c.error_reason, _as_it_is),
    "media.extractor": (jobs.c.extractor, _as_it_is),
    "media.title": (jobs.c.title, _as_it_is),
}


def page(connection: Connection, query: Query) -> Page:
    """The page of jobs that *query* asks for."""
    wanted: list[ColumnElement[bool]] = [jobs.c.delete_time.is_(None)]
    if query.tenant is not None:
        wanted.append(jobs.c.tenant == query.tenant)
    if query.where is not None:
        wanted.append(condition(query.where, _FILTERED))
    counted = select(func.count()).select_from(select(jobs.c.id).where(*wanted).limit(COUNTED).subquery())
    total = connection.execute(counted).scalar() or 0
    key = tuple_(jobs.c.create_time, jobs.c.id)
    if query.after is not None:
        place = tuple_(rows.micros(query.after[0]), query.after[1])
        wanted.append(key < place if query.descending else key > place)
    columns = (jobs.c.create_time, jobs.c.id)
    order = [column.desc() if query.descending else column.asc() for column in columns]
    statement = select(jobs).where(*wanted).order_by(*order).offset(query.skip).limit(query.limit + 1)
    found = [rows.job_of(row) for row in connection.execute(statement).mappings()]
    return Page(found[: query.limit], len(found) > query.limit, total)
