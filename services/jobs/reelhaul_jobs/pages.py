"""Pages of jobs in SQL: by keyset, so that the thousandth costs what the first does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, text, tuple_

from reelhaul_jobs import rows
from reelhaul_jobs.filters.tree import Node, pinned
from reelhaul_jobs.filters_sql import Kept, condition
from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.ports.jobs import Page, Query
from reelhaul_jobs.tables import jobs

#: Nothing is counted further than this: a count reads every row.
COUNTED = 10_000

_ORDERED = {
    Order.CREATED: jobs.c.create_time,
    Order.UPDATED: jobs.c.update_time,
    Order.ENDED: jobs.c.end_order,
}


def _as_it_is(value: Any) -> Any:
    return value


def _bare(collection: str, name: str) -> str:
    """What a column keeps of a resource's *name*; what is no name of that kind matches nothing."""
    return name.removeprefix(collection) if name.startswith(collection) else name and "-"


# Field of a filter -> its column, and how a value is kept there.
_FILTERED: Mapping[str, tuple[ColumnElement[Any], Kept]] = {
    "state": (jobs.c.state, _as_it_is),
    "kind": (jobs.c.kind, _as_it_is),
    "priority": (jobs.c.priority, _as_it_is),
    "url": (jobs.c.url, _as_it_is),
    "labels": (jobs.c.labels, _as_it_is),
    "batch_id": (jobs.c.batch_id, _as_it_is),
    "parent_job": (jobs.c.parent, partial(_bare, "jobs/")),
    "schedule": (jobs.c.schedule, partial(_bare, "schedules/")),
    "create_time": (jobs.c.create_time, rows.micros),
    "update_time": (jobs.c.update_time, rows.micros),
    "end_time": (jobs.c.end_time, rows.micros),
    "error.reason": (jobs.c.error_reason, _as_it_is),
    "media.extractor": (jobs.c.extractor, _as_it_is),
    "media.title": (jobs.c.title, _as_it_is),
    "tenant": (jobs.c.tenant, _as_it_is),
}
# A partial index serves only whom it can see to ask for no more than it holds.
_PARTIAL = {
    "error.reason": text("error_reason <> ''"),
    "batch_id": text("batch_id <> ''"),
    "parent_job": text("parent <> ''"),
    "schedule": text("schedule <> ''"),
}


def page(connection: Connection, query: Query) -> Page:
    """The page of jobs that *query* asks for."""
    wanted = conditions(query.tenant, query.where)
    total = _counted(connection, wanted) if query.total is None else query.total
    columns = (_ORDERED[query.order], jobs.c.id)
    if query.after is not None:
        key, place = tuple_(*columns), tuple_(rows.micros(query.after[0]), query.after[1])
        wanted.append(key < place if query.descending else key > place)
    order = [column.desc() if query.descending else column.asc() for column in columns]
    statement = select(jobs).where(*wanted).order_by(*order).offset(query.skip).limit(query.limit + 1)
    found = [rows.job_of(row) for row in connection.execute(statement).mappings()]
    return Page(found[: query.limit], len(found) > query.limit, total)


def conditions(tenant: str | None, where: Node | None) -> list[Any]:
    """What a row must be to be one of *tenant*'s jobs (None: anyone's) that *where* holds of."""
    wanted: list[Any] = [jobs.c.delete_time.is_(None)]
    if tenant is not None:
        wanted.append(jobs.c.tenant == tenant)
    if where is not None:
        wanted.append(condition(where, _FILTERED))
        wanted += [clause for field, clause in _PARTIAL.items() if pinned(where, field)]
    return wanted


def _counted(connection: Connection, wanted: list[Any]) -> int:
    found = select(jobs.c.id).where(*wanted).limit(COUNTED).subquery()
    return connection.execute(select(func.count()).select_from(found)).scalar() or 0
