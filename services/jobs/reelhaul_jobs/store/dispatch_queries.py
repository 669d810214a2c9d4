"""The dispatcher's side of the queue in SQL: seeks by index, however long the backlog is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal_column, select, update

from reelhaul_jobs.model.fair_scheduling import InFlightCounts, ReadyJob
from reelhaul_jobs.model.rate_limit import SiteStatus
from reelhaul_jobs.model.states import Priority, QueueStage
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery
from reelhaul_jobs.store import rate_limits, rows
from reelhaul_jobs.store.tables import IN_FLIGHT, jobs, leaders
from reelhaul_runtime.sql.statements import Statement

#: The loop whose leader alone may mark jobs as published.
DISPATCHER = "dispatcher"

# More tenants than this take turns, and of each more sites than its share of that many.
_TENANTS, _SITES = 200, 400
_FEWEST_SITES = 4

# While no worker lives, gates are looked at as if one with the plain egress did.
_ANY = frozenset({""})


def _written(lane: QueueStage) -> ColumnElement[int]:
    """*lane* in the statement's text: with a bound value no database sees that a partial index fits."""
    return literal_column(str(int(lane)))


READY = jobs.c.lane == _written(QueueStage.READY)
_IN_HAND = and_(IN_FLIGHT, jobs.c.lane.in_([_written(QueueStage.PUBLISHED), _written(QueueStage.LEASED)]))


def distinct_by_skip_scan(column: Any, *conditions: Any) -> Statement:
    """A loose index scan: the distinct values of *column* behind ``after``, one seek for each."""
    first = select(func.min(column).label("value")).where(READY, column > bindparam("after"), *conditions)
    chain = first.cte("steps", recursive=True)
    further = select(func.min(column)).where(READY, column > chain.c.value, *conditions).scalar_subquery()
    chain = chain.union_all(select(further).where(chain.c.value.is_not(None)))
    return Statement(select(chain.c.value).where(chain.c.value.is_not(None)).limit(bindparam("most")))


_TENANTS_READY = distinct_by_skip_scan(jobs.c.tenant)
SITES_READY = distinct_by_skip_scan(jobs.c.site, jobs.c.tenant == bindparam("of_tenant"))

_COLUMNS = (
    jobs.c.id,
    jobs.c.attempt,
    jobs.c.tenant,
    jobs.c.priority,
    jobs.c.traceparent,
    jobs.c.site,
    jobs.c.due,
)
_READY_AT = Statement(
    select(*_COLUMNS)
    .where(READY, jobs.c.tenant == bindparam("of_tenant"), jobs.c.site == bindparam("of_site"))
    .order_by(jobs.c.due, jobs.c.id)
    .limit(bindparam("most"))
)
_COUNTS = Statement(
    select(jobs.c.tenant, jobs.c.site, jobs.c.lane, func.count().label("jobs"))
    .where(_IN_HAND)
    .group_by(jobs.c.tenant, jobs.c.site, jobs.c.lane)
)
_COUNTS_AT = Statement(
    select(jobs.c.lane, func.count().label("jobs"))
    .where(_IN_HAND, jobs.c.site == bindparam("of_site"))
    .group_by(jobs.c.lane)
)
_OUTSTANDING = Statement(
    select(*_COLUMNS).where(IN_FLIGHT, jobs.c.lane == _written(QueueStage.PUBLISHED)).limit(bindparam("most"))
)

_STILL_READY = (
    select(jobs.c.id)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)), jobs.c.lane == int(QueueStage.READY))
    # A row that another transaction is changing is left for the next look.
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(jobs)
    .where(jobs.c.id.in_(_STILL_READY.scalar_subquery()))
    .values(lane=int(QueueStage.PUBLISHED), due=bindparam("until"))
    .returning(jobs.c.id, jobs.c.attempt)
)
_PUT_BACK = Statement(
    update(jobs)
    .where(
        jobs.c.id == bindparam("job"),
        jobs.c.attempt == bindparam("of_attempt"),
        jobs.c.lane == int(QueueStage.PUBLISHED),
    )
    .values(lane=int(QueueStage.READY), due=bindparam("rank"))
)
_LEADS = Statement(
    select(leaders.c.holder)
    .where(leaders.c.loop == DISPATCHER, leaders.c.holder == bindparam("leader"))
    # Nobody takes over before what is marked now is committed.
    .with_for_update()
)


def backlog(connection: Connection, look: BacklogQuery, now: datetime) -> Backlog:
    """See QueueStore.backlog; without the slots."""
    held, standing = _held(connection)
    tenants = next_window(connection, _TENANTS_READY, look.after_tenant, _TENANTS)
    share = max(_FEWEST_SITES, _SITES // max(1, len(tenants)))
    waiting = {
        tenant: next_window(
            connection, SITES_READY, look.after_sites.get(tenant, ""), share, of_tenant=tenant
        )
        for tenant in tenants
    }
    live = rate_limits.live_egresses(connection, now)
    gates = rate_limits.get_for_sites(
        connection, (site for found in waiting.values() for site in found), live or _ANY
    )
    sites = {
        site: SiteStatus(site=site, published=published, leased=leased, rate_limits=opened)
        for site, opened in gates.items()
        for published, leased in [standing[site]]
    }
    room = {site: min(look.limit, look.free_slots(stands)) for site, stands in sites.items()}
    ready = {
        tenant: _ready_of(connection, tenant, found, room, look.limit) for tenant, found in waiting.items()
    }
    return Backlog(
        {tenant: found for tenant, found in ready.items() if found},
        held,
        sites,
        sum(published for published, _ in standing.values()),
        last_tenant=tenants[-1] if len(tenants) == _TENANTS else "",
        last_sites={tenant: found[-1] for tenant, found in waiting.items() if len(found) == share},
    )


def site_now(connection: Connection, site: str, now: datetime) -> SiteStatus:
    """See QueueStore.site."""
    counts: dict[int, int] = {
        row["lane"]: row["jobs"] for row in _COUNTS_AT.all(connection, {"of_site": site})
    }
    live = rate_limits.live_egresses(connection, now) or _ANY
    return SiteStatus(
        site=site,
        published=counts.get(int(QueueStage.PUBLISHED), 0),
        leased=counts.get(int(QueueStage.LEASED), 0),
        rate_limits=rate_limits.get_for_sites(connection, [site], live)[site],
    )


def mark_published(
    connection: Connection, ready: Sequence[ReadyJob], until: datetime, leader: str | None
) -> Sequence[ReadyJob]:
    """See QueueStore.take."""
    if leader is not None and _LEADS.first(connection, {"leader": leader}) is None:
        return []
    asked = {"ids": [job.id for job in ready], "until": rows.to_micros(until)}
    taken: dict[str, int] = {row.id: row.attempt for row in connection.execute(_TAKE, asked)}
    return [replace(job, attempt=taken[job.id]) for job in ready if job.id in taken]


def mark_ready(connection: Connection, ready: Sequence[ReadyJob]) -> None:
    """See QueueStore.put_back."""
    told = [
        {"job": job.id, "of_attempt": job.attempt, "rank": rows.to_micros_or_none(job.due)} for job in ready
    ]
    _PUT_BACK.run_many(connection, told)


def outstanding(connection: Connection, limit: int) -> Sequence[ReadyJob]:
    """See QueueStore.outstanding."""
    return [_ready(row) for row in _OUTSTANDING.all(connection, {"most": limit})]


def _held(connection: Connection) -> tuple[InFlightCounts, dict[str, tuple[int, int]]]:
    """What each tenant holds, and how many jobs of each site are published and leased."""
    by_tenant: dict[str, int] = defaultdict(int)
    at_site: dict[tuple[str, str], int] = defaultdict(int)
    standing: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in _COUNTS.all(connection, {}):
        tenant, site, lane, number = row["tenant"], row["site"], row["lane"], row["jobs"]
        by_tenant[tenant] += number
        at_site[tenant, site] += number
        published, leased = standing[site]
        standing[site] = (
            (published + number, leased) if lane == QueueStage.PUBLISHED else (published, leased + number)
        )
    return InFlightCounts(dict(by_tenant), dict(at_site)), standing


def next_window(connection: Connection, steps: Statement, after: str, most: int, **of: str) -> list[str]:
    """At most *most* values: those behind *after* first, then from the beginning."""
    found = steps.column(connection, {"after": after, "most": most, **of})
    if after and len(found) < most:
        rest = steps.column(connection, {"after": "", "most": most - len(found), **of})
        found += [value for value in rest if value <= after]
    return found


def _ready_of(
    connection: Connection, tenant: str, sites: Sequence[str], room: dict[str, int], limit: int
) -> list[ReadyJob]:
    """The tenant's next *limit* jobs of those *sites* that have room, in its order."""
    found = []
    for site in sites:
        if room[site] > 0:
            asked = {"of_tenant": tenant, "of_site": site, "most": room[site]}
            found.append([_ready(row) for row in _READY_AT.all(connection, asked)])
    return list(islice(merge(*found, key=lambda job: (job.due, job.id)), limit))


def _ready(row: rows.Row) -> ReadyJob:
    return ReadyJob(
        row["id"],
        row["attempt"],
        row["tenant"],
        Priority(row["priority"]),
        row["traceparent"],
        row["site"],
        rows.from_micros(row["due"]),
    )
