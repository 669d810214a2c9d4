"""Counts what waits and runs, for metrics: bounded reads of indexes, however many jobs there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, func, literal_column, select, text

from reelhaul_jobs.model.queue_counts import QueueCounts, ReadyGroup
from reelhaul_jobs.model.rate_limit import SiteStatus
from reelhaul_jobs.model.states import Priority, QueueStage, State
from reelhaul_jobs.store import dispatch_queries, rate_limits, rows
from reelhaul_jobs.store.quotas import ConcurrencyLimits
from reelhaul_jobs.store.tables import IN_FLIGHT, jobs, site_rate_limits
from reelhaul_jobs.store.webhook_tables import IS_PENDING, webhook_deliveries, webhook_outbox

#: Jobs of one tenant in one state that are counted at most: entries of an index.
MAX_COUNTED = 100_000
#: Jobs of one queue stage that are counted at most: rows.
MAX_ROWS = 20_000
# Tenants whose jobs are counted, and sites whose limits are read.
_MAX_TENANTS, _MAX_SITES = 10_000, 1_000

_LIVE_STATES = [int(state) for state in State if not state.is_terminal]
# A loose index scan of the tenants, then a range of the same index for each state. Not a LIMIT within the
# recursion, which PostgreSQL does not have.
_STATES = text(
    f"""
    WITH RECURSIVE tenants(tenant) AS (
        SELECT min(tenant) FROM jobs WHERE delete_time IS NULL
        UNION ALL
        SELECT (SELECT min(tenant) FROM jobs WHERE delete_time IS NULL AND jobs.tenant > tenants.tenant)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    ), states(state) AS (VALUES {", ".join(f"({state})" for state in _LIVE_STATES)})
    SELECT states.state, sum((
        SELECT count(*) FROM (
            SELECT 1 FROM jobs
            WHERE delete_time IS NULL AND jobs.tenant = listed.tenant AND jobs.state = states.state
            LIMIT :most
        ) AS counted
    )) AS jobs
    FROM (SELECT tenant FROM tenants WHERE tenant IS NOT NULL LIMIT :tenants) AS listed CROSS JOIN states
    GROUP BY states.state
    """  # noqa: S608
)
# Since when a waiting job could start, as metrics.py computes it at the claim.
_COULD_START = case(
    (jobs.c.attempt > 1, jobs.c.update_time),
    (jobs.c.schedule_time > jobs.c.create_time, jobs.c.schedule_time),
    else_=jobs.c.create_time,
)


def _first(*columns: ColumnElement[Any], where: Iterable[ColumnElement[bool]]) -> Any:
    """Return the subquery of the first rows of a queue stage."""
    return select(*columns).where(*where).limit(bindparam("most")).subquery()


def _in_stage(stage: QueueStage) -> tuple[ColumnElement[bool], ...]:
    return IN_FLIGHT, jobs.c.lane == literal_column(str(int(stage)))  # type: ignore[return-value]


_ready = _first(
    jobs.c.site,
    jobs.c.tenant,
    jobs.c.api_key,
    jobs.c.priority,
    _COULD_START.label("since"),
    where=[dispatch_queries.READY],
).c
_READY = select(
    _ready.site,
    _ready.tenant,
    _ready.api_key,
    _ready.priority,
    func.count().label("jobs"),
    func.min(_ready.since).label("since"),
).group_by(_ready.site, _ready.tenant, _ready.api_key, _ready.priority)
_published = _first(jobs.c.priority, _COULD_START.label("since"), where=_in_stage(QueueStage.PUBLISHED)).c
_PUBLISHED = select(
    _published.priority, func.count().label("jobs"), func.min(_published.since).label("since")
).group_by(_published.priority)
_later = _first(
    jobs.c.state,
    (jobs.c.due == jobs.c.schedule_time).label("scheduled"),
    jobs.c.error_reason,
    where=_in_stage(QueueStage.LATER),
).c
_LATER = (
    select(_later.scheduled, _later.error_reason, func.count().label("jobs"))
    .where(_later.state == int(State.QUEUED))
    .group_by(_later.scheduled, _later.error_reason)
)
_LIMITED_SITES = select(site_rate_limits.c.site).distinct().limit(bindparam("most"))
_PARKED_SITES = select(func.count(site_rate_limits.c.site.distinct())).where(
    site_rate_limits.c.parked_until.is_not(None)
)


def _count_first(statement: Select[Any]) -> Select[Any]:
    return select(func.count()).select_from(statement.limit(bindparam("most")).subquery())


_WEBHOOK_BACKLOG = [
    _count_first(select(literal_column("1")).select_from(webhook_deliveries).where(IS_PENDING)),
    _count_first(select(literal_column("1")).select_from(webhook_outbox)),
]


def count_queue(
    connection: Connection, now: datetime, slots: int, limits: ConcurrencyLimits | None
) -> QueueCounts:
    """Return the counts of one snapshot; the live workers have *slots*. *limits*: of keys and tenants."""
    if connection.dialect.name == "postgresql":
        # Where it expects many rows, it would read all of them in order, and find none.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
    most = {"most": MAX_ROWS}
    in_flight, by_site = dispatch_queries.count_in_flight(connection)
    full = limits.find_full(connection, in_flight) if limits is not None else frozenset[str]()
    ready = connection.execute(_READY, most).all()
    published = connection.execute(_PUBLISHED, most).all()
    later = connection.execute(_LATER, most).all()
    states = connection.execute(_STATES, {"most": MAX_COUNTED, "tenants": _MAX_TENANTS}).all()
    depth, oldest = dict[Priority, int](), dict[Priority, datetime]()
    for row in [*ready, *published]:
        priority, since = Priority(row.priority), rows.from_micros(row.since)
        depth[priority] = depth.get(priority, 0) + row.jobs
        oldest[priority] = min(since, oldest.get(priority, since))
    return QueueCounts(
        states={State(row.state): int(row.jobs) for row in states},
        depth=depth,
        oldest=oldest,
        ready=[
            ReadyGroup(row.site, row.jobs, bool(full & {f"tenants/{row.tenant}", f"apiKeys/{row.api_key}"}))
            for row in ready
        ],
        published=sum(row.jobs for row in published),
        leased=sum(leased for _, leased in by_site.values()),
        scheduled=sum(row.jobs for row in later if row.scheduled),
        released={row.error_reason: row.jobs for row in later if not row.scheduled},
        sites=_limited_sites(connection, {row.site for row in ready}, by_site, now),
        parked_sites=int(connection.execute(_PARKED_SITES).scalar_one()),
        slots=slots,
        webhook_backlog=sum(
            int(connection.execute(statement, {"most": MAX_COUNTED}).scalar_one())
            for statement in _WEBHOOK_BACKLOG
        ),
    )


def _limited_sites(
    connection: Connection, sites: set[str], by_site: Mapping[str, tuple[int, int]], now: datetime
) -> Mapping[str, SiteStatus]:
    """Return those of *sites* that may admit no job now: with a rate limit, or with jobs in flight."""
    limited = {*connection.execute(_LIMITED_SITES, {"most": _MAX_SITES}).scalars(), *by_site} & sites
    egresses = rate_limits.live_egresses(connection, now) or dispatch_queries.DEFAULT_EGRESS
    found = rate_limits.get_for_sites(connection, sorted(limited)[:_MAX_SITES], egresses)
    return {
        site: SiteStatus(site=site, published=published, leased=leased, rate_limits=limits_of_site)
        for site, limits_of_site in found.items()
        for published, leased in [by_site.get(site, (0, 0))]
    }
