"""Reads jobs: one by its id, and pages by keyset, so that the thousandth page costs what the first does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    asc,
    desc,
    func,
    select,
    text,
    tuple_,
    union_all,
)

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.jobs import FindKept, JobVersion, KeptJob, Page, Query, find_nothing
from reelhaul_jobs.store import rows, rows_by_id
from reelhaul_jobs.store.tables import jobs
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.filters.ast import And, Node, Not, Operator, Or, Term, required_value
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition

#: Jobs are counted up to this number: a count reads every row.
MAX_COUNT = 10_000

# The columns of JobVersion.
_VERSION_COLUMNS = (jobs.c.id, jobs.c.tenant, jobs.c.revision, jobs.c.update_time)
_ORDER_COLUMNS = {
    Order.CREATED: jobs.c.create_time,
    Order.UPDATED: jobs.c.update_time,
    Order.ENDED: jobs.c.end_order,
}


def _unchanged(value: Any) -> Any:
    return value


def resource_id(collection: str, name: str) -> str:
    """Return the id in a resource *name* of *collection*; "-", which matches nothing, for any other name."""
    return name.removeprefix(collection) if name.startswith(collection) else name and "-"


# Field of a filter -> its column, and the conversion of a value to that column.
_FILTER_COLUMNS: Mapping[str, tuple[ColumnElement[Any], ToColumn]] = {
    "state": (jobs.c.state, _unchanged),
    "kind": (jobs.c.kind, _unchanged),
    "priority": (jobs.c.priority, _unchanged),
    "url": (jobs.c.url, _unchanged),
    "labels": (jobs.c.labels, _unchanged),
    "batch_id": (jobs.c.batch_id, _unchanged),
    "parent_job": (jobs.c.parent, partial(resource_id, "jobs/")),
    "schedule": (jobs.c.schedule, partial(resource_id, "schedules/")),
    "create_time": (jobs.c.create_time, rows.to_micros),
    "update_time": (jobs.c.update_time, rows.to_micros),
    "end_time": (jobs.c.end_order, rows.to_micros),
    "error.reason": (jobs.c.error_reason, _unchanged),
    "media.extractor": (jobs.c.extractor, _unchanged),
    "media.title": (jobs.c.title, _unchanged),
    "tenant": (jobs.c.tenant, _unchanged),
}
# Fields with a partial index, and its condition, which a query must repeat to use the index.
_PARTIAL_INDEXES = {
    "error.reason": text("error_reason <> ''"),
    "batch_id": text("batch_id <> ''"),
    "parent_job": text("parent <> ''"),
    "schedule": text("schedule <> ''"),
}
_REASON = "error.reason"
# A filter that requires a value of one of these leaves few jobs, which may be sorted.
_SELECTIVE = ("batch_id", "parent_job", "schedule")

_ALL_STATES: frozenset[State] = frozenset(State)
_TERMINAL_STATES = frozenset(state for state in State if state.is_terminal)


def get_job(connection: Connection, job_id: str) -> Job:
    """Return the job. Raises ``NotFound``, also if it is deleted."""
    (job,) = get_jobs(connection, [(job_id, find_nothing)])
    if not isinstance(job, Job):
        raise NotFound(f"jobs/{job_id}")
    return job


def get_jobs(
    connection: Connection, arguments: Sequence[tuple[str, FindKept]]
) -> Sequence[Job | bytes | None]:
    """Return for each id the job, or what is kept of it; None if it does not exist or is deleted."""
    found = rows_by_id.read(connection, list({job_id for job_id, _ in arguments}))
    return [_job_or_kept(found.get(job_id), find_kept) for job_id, find_kept in arguments]


def list_page(
    connection: Connection, query: Query, find_kept: FindKept = find_nothing
) -> Page[Job | KeptJob]:
    """Return the page of jobs that *query* selects; of those that *find_kept* finds, what is kept."""
    if not _possible_states(query.where):
        return Page([], False, 0)
    total = query.total
    if total is None:
        total = connection.execute(_count_statement(query)).scalar() or 0
    versions = connection.execute(_versions_statement(query, total < MAX_COUNT)).all()
    listed = versions[: query.limit]
    kept = [find_kept(JobVersion(*version)) for _, *version in listed]
    missing = [version[1] for version, content in zip(listed, kept, strict=True) if content is None]
    loaded = rows_by_id.read(connection, missing)
    items = [
        rows.job_from_row(loaded[job_id]) if content is None else KeptJob(job_id, order_time, content)
        for (order_time, job_id, *_), content in zip(listed, kept, strict=True)
    ]
    return Page(items, len(versions) > query.limit, total)


def _job_or_kept(row: rows.Row | None, find_kept: FindKept) -> Job | bytes | None:
    if row is None or row["delete_time"] is not None:
        return None
    version = JobVersion(row["id"], row["tenant"], row["revision"], row["update_time"])
    return find_kept(version) or rows.job_from_row(row)


def conditions(tenant: str | None, where: Node | None) -> list[Any]:
    """Return the conditions for the jobs of *tenant* (None: of all tenants) that *where* matches."""
    return _conditions(tenant, where, _PARTIAL_INDEXES)


def _conditions(tenant: str | None, where: Node | None, indexed: Iterable[str]) -> list[Any]:
    """Like ``conditions``, but with the conditions of the partial indexes of *indexed* fields only."""
    found: list[Any] = [jobs.c.delete_time.is_(None)]
    if tenant is not None:
        found.append(jobs.c.tenant == tenant)
    if where is not None:
        found.append(condition(where, _FILTER_COLUMNS))
        found += [_PARTIAL_INDEXES[field] for field in indexed if required_value(where, field)]
    return found


def _plan(query: Query, few: bool) -> tuple[list[Any], Sequence[State]]:
    """Return the conditions of the page's rows, and the states whose lists are to be merged.

    There is an index per order for the jobs of one state. No states: one index has the jobs in the query's
    order, or they are few enough to be sorted; *few*: fewer than MAX_COUNT match.
    """
    states = _possible_states(query.where)
    where = conditions(query.tenant, query.where)
    if query.tenant is None or any(required_value(query.where, field) for field in _SELECTIVE):
        return where, ()
    if states == _ALL_STATES and (query.order is Order.CREATED or required_value(query.where, _REASON)):
        return where, ()
    if required_value(query.where, _REASON) and (query.order is Order.CREATED or few):
        return where, ()
    # Not by the index of reasons, which is in another order: too many jobs would have to be sorted.
    return _conditions(query.tenant, query.where, _SELECTIVE), sorted(states)


# Lists are polled: building a statement takes as long as running it.
@lru_cache(maxsize=256)
def _versions_statement(query: Query, few: bool) -> Select[Any]:
    """Return the statement for the order time and the JobVersion of the jobs of a page, and of one more.

    *few*: fewer than MAX_COUNT match.
    """
    where, merged_states = _plan(query, few)
    direction = desc if query.descending else asc
    columns = (_ORDER_COLUMNS[query.order], jobs.c.id)
    order = [direction(column) for column in columns]
    if query.after is not None:
        after = tuple_(rows.to_micros(query.after[0]), query.after[1])
        where.append(tuple_(*columns) < after if query.descending else tuple_(*columns) > after)
    versions = select(columns[0].label("order_time"), *_VERSION_COLUMNS)
    if merged_states:
        page_ids = _merged_ids(query, where, merged_states)
        return versions.where(jobs.c.id.in_(page_ids)).order_by(*order)
    return versions.where(*where).order_by(*order).offset(query.skip).limit(query.limit + 1)


def _merged_ids(query: Query, where: list[Any], merged_states: Sequence[State]) -> Select[Any]:
    """Return the ids of the jobs of a page, merged from the lists of jobs of each state."""
    direction = desc if query.descending else asc
    columns = (_ORDER_COLUMNS[query.order], jobs.c.id)
    order = [direction(column) for column in columns]
    needed = query.skip + query.limit + 1
    by_state = (select(*columns).where(*where, jobs.c.state == state) for state in merged_states)
    # A compound select takes one ORDER BY and LIMIT for all of it, so that each part needs a subquery.
    parts = (select(part.order_by(*order).limit(needed).subquery()) for part in by_state)
    merged = union_all(*parts).subquery()
    ids = select(merged.c.id).order_by(*(direction(column) for column in merged.c))
    return ids.offset(query.skip).limit(query.limit + 1)


@lru_cache(maxsize=256)
def _count_statement(query: Query) -> Select[Any]:
    """Return the statement that counts the jobs of *query*, up to MAX_COUNT."""
    states = _possible_states(query.where)
    where = conditions(query.tenant, query.where)
    ids = select(jobs.c.id).where(*where).limit(MAX_COUNT)
    indexed = any(required_value(query.where, field) for field in _PARTIAL_INDEXES)
    if states != _ALL_STATES and query.tenant is not None and not indexed:
        by_state = (select(jobs.c.id).where(*where, jobs.c.state == state) for state in sorted(states))
        parts = union_all(*(select(part.limit(MAX_COUNT).subquery()) for part in by_state)).subquery()
        ids = select(parts.c.id).limit(MAX_COUNT)
    return select(func.count()).select_from(ids.subquery())


def _possible_states(node: Node | None) -> Set[State]:
    """Return a superset of the states of the jobs that *node* matches."""
    match node:
        case And(nodes):
            return _ALL_STATES.intersection(*map(_possible_states, nodes))
        case Or(nodes):
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
    # A job that has not ended has no end_time, and that is unequal to every time.
    if term.field == "end_time" and term.operator is not Operator.NOT_EQUAL:
        return _TERMINAL_STATES
    return _ALL_STATES
