"""Pages of jobs in SQL: by keyset, so that the thousandth costs what the first does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    asc,
    bindparam,
    desc,
    func,
    select,
    text,
    tuple_,
    union_all,
)

from reelhaul_jobs.filters.ast import And, Node, Not, Operator, Term, required_value
from reelhaul_jobs.filters.ast import Or as AnyOf
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import Page, Query
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.filter_sql import Kept, condition
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.sql.statements import Statement

#: Nothing is counted further than this: a count reads every row.
COUNTED = 10_000

_ORDERED = {
    Order.CREATED: jobs.c.create_time,
    Order.UPDATED: jobs.c.update_time,
    Order.ENDED: jobs.c.end_order,
}


def _as_it_is(value: Any) -> Any:
    return value


def resource_id(collection: str, name: str) -> str:
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
    "parent_job": (jobs.c.parent, partial(resource_id, "jobs/")),
    "schedule": (jobs.c.schedule, partial(resource_id, "schedules/")),
    "create_time": (jobs.c.create_time, rows.to_micros),
    "update_time": (jobs.c.update_time, rows.to_micros),
    "end_time": (jobs.c.end_order, rows.to_micros),
    "error.reason": (jobs.c.error_reason, _as_it_is),
    "media.extractor": (jobs.c.extractor, _as_it_is),
    "media.title": (jobs.c.title, _as_it_is),
    "tenant": (jobs.c.tenant, _as_it_is),
}
_ONE = Statement(select(jobs).where(jobs.c.id == bindparam("job")))
# A partial index serves only whom it can see to ask for no more than it holds.
_PARTIAL = {
    "error.reason": text("error_reason <> ''"),
    "batch_id": text("batch_id <> ''"),
    "parent_job": text("parent <> ''"),
    "schedule": text("schedule <> ''"),
}


_ALL_STATES: frozenset[State] = frozenset(State)
_TERMINAL_STATES = frozenset(state for state in State if state.is_terminal)
_REASON = "error.reason"
# Fields by which a filter leaves few enough to sort.
_FEW = ("batch_id", "parent_job", "schedule")


def get_job(connection: Connection, job_id: str) -> Job:
    """The job, or ``NotFound``: also where it was deleted."""
    found = _ONE.first(connection, {"job": job_id})
    if found is None or found["delete_time"] is not None:
        raise NotFound(f"jobs/{job_id}")
    return rows.job_from_row(found)


def list_page(connection: Connection, query: Query) -> Page:
    """The page of jobs that *query* asks for."""
    states = _possible_states(query.where)
    if not states:
        return Page([], False, 0)
    total = query.total
    if total is None:
        total = bounded_count(connection, query, states)
    wanted, apart = _plan(query, states, total)
    if query.after is not None:
        key = tuple_(_ORDERED[query.order], jobs.c.id)
        place = tuple_(rows.to_micros(query.after[0]), query.after[1])
        wanted.append(key < place if query.descending else key > place)
    found = [rows.job_from_row(row) for row in connection.execute(_page(query, wanted, apart)).mappings()]
    return Page(found[: query.limit], len(found) > query.limit, total)


def conditions(tenant: str | None, where: Node | None) -> list[Any]:
    """What a row must be to be one of *tenant*'s jobs (None: anyone's) that *where* holds of."""
    return _wanted(tenant, where, _PARTIAL)


def _wanted(tenant: str | None, where: Node | None, indexed: Iterable[str]) -> list[Any]:
    wanted: list[Any] = [jobs.c.delete_time.is_(None)]
    if tenant is not None:
        wanted.append(jobs.c.tenant == tenant)
    if where is not None:
        wanted.append(condition(where, _FILTERED))
        wanted += [_PARTIAL[field] for field in indexed if required_value(where, field)]
    return wanted


def _plan(query: Query, states: Set[State], total: int) -> tuple[list[Any], Sequence[State]]:
    """What a row of the page must be; and the states whose jobs are best looked for one state at a time.

    For one state there is an index in each order. No states: an index holds what is asked as it
    is, or what is little enough to be sorted.
    """
    wanted = conditions(query.tenant, query.where)
    if query.tenant is None or any(required_value(query.where, field) for field in _FEW):
        return wanted, ()
    if states == _ALL_STATES and (query.order is Order.CREATED or required_value(query.where, _REASON)):
        return wanted, ()
    if required_value(query.where, _REASON) and (query.order is Order.CREATED or total < COUNTED):
        return wanted, ()
    # Not by the index of reasons, which is in another order: too many would have to be sorted.
    return _wanted(query.tenant, query.where, _FEW), sorted(states)


def _page(query: Query, wanted: list[Any], apart: Sequence[State]) -> Select[Any]:
    way = desc if query.descending else asc
    columns = (_ORDERED[query.order], jobs.c.id)
    order = [way(column) for column in columns]
    if not apart:
        return select(jobs).where(*wanted).order_by(*order).offset(query.skip).limit(query.limit + 1)
    last = query.skip + query.limit + 1
    each = (select(*columns).where(*wanted, jobs.c.state == state) for state in apart)
    # A compound takes an order and a limit for all of it alone: each of its parts has its own inside.
    merged = union_all(*(select(one.order_by(*order).limit(last).subquery()) for one in each)).subquery()
    first = select(merged.c.id).order_by(*(way(column) for column in merged.c))
    chosen = first.offset(query.skip).limit(query.limit + 1)
    return select(jobs).where(jobs.c.id.in_(chosen)).order_by(*order)


def bounded_count(connection: Connection, query: Query, states: Set[State]) -> int:
    wanted = conditions(query.tenant, query.where)
    found = select(jobs.c.id).where(*wanted).limit(COUNTED)
    pinned_anywhere = any(required_value(query.where, field) for field in _PARTIAL)
    if states != _ALL_STATES and query.tenant is not None and not pinned_anywhere:
        each = (select(jobs.c.id).where(*wanted, jobs.c.state == state) for state in sorted(states))
        parts = union_all(*(select(one.limit(COUNTED).subquery()) for one in each)).subquery()
        found = select(parts.c.id).limit(COUNTED)
    return connection.execute(select(func.count()).select_from(found.subquery())).scalar() or 0


def _possible_states(node: Node | None) -> Set[State]:
    """The states in which *node* may hold; more than those in which it does, where that is not plain."""
    match node:
        case And(nodes):
            return _ALL_STATES.intersection(*map(_possible_states, nodes))
        case AnyOf(nodes):
            return frozenset().union(*map(_possible_states, nodes))
        case Not(Term(field="state") as term):
            return _ALL_STATES - _possible_states_of_term(term)
        case Term():
            return _possible_states_of_term(node)
    return _ALL_STATES


def _possible_states_of_term(term: Term) -> Set[State]:
    if term.field == "state":
        named = {state for state in State if state == term.value}
        return named if term.operator is Operator.EQUAL else _ALL_STATES - named
    # What has not ended has no end_time, and that is unequal to every time.
    if term.field == "end_time" and term.operator is not Operator.NOT_EQUAL:
        return _TERMINAL_STATES
    return _ALL_STATES
