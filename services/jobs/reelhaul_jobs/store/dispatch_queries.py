"""The dispatcher's queries: index seeks, however long the backlog is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import merge
from itertools import chain, islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal_column, select, update

from reelhaul_jobs.model import fair_scheduling
from reelhaul_jobs.model.fair_scheduling import InFlightCounts, ReadyJob
from reelhaul_jobs.model.quota import account_of_key, account_of_tenant
from reelhaul_jobs.model.rate_limit import SiteStatus
from reelhaul_jobs.model.states import Priority, QueueStage
from reelhaul_jobs.ports.queue import Backlog, BacklogQuery
from reelhaul_jobs.store import rate_limits, rows
from reelhaul_jobs.store.quotas import ConcurrencyLimits
from reelhaul_jobs.store.tables import IN_FLIGHT, jobs, leaders
from reelhaul_runtime.sql.statements import Statement

#: The loop whose leader alone may mark jobs as published.
DISPATCHER = "dispatcher"

# Bounds of one query: names of tenants, and sites of all tenants together, of which each has its share.
_MAX_WAITING, _MAX_SITES = 2_000, 400
_MIN_SITES_PER_TENANT = 4

#: While no worker is alive, sites are read as if one with the default egress were.
DEFAULT_EGRESS = frozenset({""})


def _literal(stage: QueueStage) -> ColumnElement[int]:
    """Return *stage* as text: from a bound value neither database sees that a partial index fits."""
    return literal_column(str(int(stage)))


READY = jobs.c.lane == _literal(QueueStage.READY)
_PUBLISHED_OR_LEASED = and_(
    IN_FLIGHT, jobs.c.lane.in_([_literal(QueueStage.PUBLISHED), _literal(QueueStage.LEASED)])
)


def distinct_by_skip_scan(column: Any, *where: Any) -> Statement:
    """Return a loose index scan: the distinct values of *column* after ``after``, one seek for each."""
    first = select(func.min(column).label("value")).where(READY, column > bindparam("after"), *where)
    steps = first.cte("steps", recursive=True)
    following = select(func.min(column)).where(READY, column > steps.c.value, *where).scalar_subquery()
    steps = steps.union_all(select(following).where(steps.c.value.is_not(None)))
    return Statement(select(steps.c.value).where(steps.c.value.is_not(None)).limit(bindparam("most")))


_READY_TENANTS = distinct_by_skip_scan(jobs.c.tenant)
READY_SITES = distinct_by_skip_scan(jobs.c.site, jobs.c.tenant == bindparam("of_tenant"))

_READY_COLUMNS = (
    jobs.c.id,
    jobs.c.attempt,
    jobs.c.tenant,
    jobs.c.priority,
    jobs.c.traceparent,
    jobs.c.site,
    jobs.c.due,
    jobs.c.api_key,
)
_READY_AT_SITE = Statement(
    select(*_READY_COLUMNS)
    .where(READY, jobs.c.tenant == bindparam("of_tenant"), jobs.c.site == bindparam("of_site"))
    .order_by(jobs.c.due, jobs.c.id)
    .limit(bindparam("most"))
)
# As _READY_AT_SITE, without the jobs of some keys.
_READY_OF_OTHER_KEYS = (
    select(*_READY_COLUMNS)
    .where(
        READY,
        jobs.c.tenant == bindparam("of_tenant"),
        jobs.c.site == bindparam("of_site"),
        jobs.c.api_key.not_in(bindparam("keys", expanding=True)),
    )
    .order_by(jobs.c.due, jobs.c.id)
    .limit(bindparam("most"))
)
_COUNTS = Statement(
    select(jobs.c.tenant, jobs.c.site, jobs.c.lane, jobs.c.api_key, func.count().label("jobs"))
    .where(_PUBLISHED_OR_LEASED)
    .group_by(jobs.c.tenant, jobs.c.site, jobs.c.lane, jobs.c.api_key)
)
_COUNTS_AT_SITE = Statement(
    select(jobs.c.lane, func.count().label("jobs"))
    .where(_PUBLISHED_OR_LEASED, jobs.c.site == bindparam("of_site"))
    .group_by(jobs.c.lane)
)
_PUBLISHED = Statement(
    select(*_READY_COLUMNS)
    .where(IN_FLIGHT, jobs.c.lane == _literal(QueueStage.PUBLISHED))
    .limit(bindparam("most"))
)

_STILL_READY = (
    select(jobs.c.id)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)), jobs.c.lane == int(QueueStage.READY))
    # A row that another transaction is changing is left for the next step.
    .with_for_update(skip_locked=True)
)
_MARK_PUBLISHED = (
    update(jobs)
    .where(jobs.c.id.in_(_STILL_READY.scalar_subquery()))
    .values(lane=int(QueueStage.PUBLISHED), due=bindparam("until"))
    .returning(jobs.c.id, jobs.c.attempt)
)
_MARK_READY = Statement(
    update(jobs)
    .where(
        jobs.c.id == bindparam("job"),
        jobs.c.attempt == bindparam("of_attempt"),
        jobs.c.lane == int(QueueStage.PUBLISHED),
    )
    .values(lane=int(QueueStage.READY), due=bindparam("rank"))
)
_IS_LEADER = Statement(
    select(leaders.c.holder)
    .where(leaders.c.loop == DISPATCHER, leaders.c.holder == bindparam("leader"))
    # No other replica becomes the leader before this transaction is committed.
    .with_for_update()
)


def get_backlog(
    connection: Connection,
    query: BacklogQuery,
    slots: int,
    now: datetime,
    limits_of_accounts: ConcurrencyLimits | None = None,
) -> Backlog:
    """Return the backlog as QueueStore.get_backlog does; the workers have *slots*."""
    in_flight, by_site = count_in_flight(connection)
    published = sum(published for published, _ in by_site.values())
    window = query.window(slots)
    if published >= window:
        return Backlog(in_flight=in_flight, window=window, published=published)
    waiting = next_window(connection, _READY_TENANTS, query.after_tenant, _MAX_WAITING)
    tenants = query.order(waiting, in_flight)[: fair_scheduling.tenants_to_read(window - published)]
    max_sites = max(_MIN_SITES_PER_TENANT, _MAX_SITES // max(1, len(tenants)))
    sites_of = _list_sites(connection, tenants, query.after_sites, max_sites)
    egresses = rate_limits.live_egresses(connection, now) or DEFAULT_EGRESS
    limits = rate_limits.get_for_sites(
        connection, (site for sites in sites_of.values() for site in sites), egresses
    )
    statuses = {
        site: SiteStatus(
            site=site, published=by_site[site][0], leased=by_site[site][1], rate_limits=site_limits
        )
        for site, site_limits in limits.items()
    }
    limit = min(query.limit, fair_scheduling.jobs_per_tenant(window - published, len(tenants)))
    most = {site: min(limit, query.free_slots(status)) for site, status in statuses.items()}
    shares = {
        site: max(0, fair_scheduling.site_share(slots) - status.published - status.leased)
        for site, status in statuses.items()
    }
    concurrency = _Concurrency(connection, limits_of_accounts, in_flight)
    with_room = {tenant: sites for tenant, sites in sites_of.items() if concurrency.has_room(tenant)}
    listed = _list_ready(connection, with_room, most, concurrency.full_keys)
    ready = {
        tenant: concurrency.apply(tenant, _in_order(jobs_by_site, shares, limit))
        for tenant, jobs_by_site in listed.items()
    }
    return Backlog(
        {tenant: found for tenant, found in ready.items() if found},
        in_flight,
        statuses,
        window,
        published,
        limit,
        waiting=frozenset(waiting),
        tenants=frozenset(tenants),
        last_tenant=waiting[-1] if len(waiting) == _MAX_WAITING else "",
        last_sites={tenant: sites[-1] for tenant, sites in sites_of.items() if len(sites) == max_sites},
        at_limit=concurrency.at_limit,
    )


class _Concurrency:
    """Leaves out ready jobs whose key or tenant has as many jobs in flight as it may."""

    def __init__(
        self, connection: Connection, limits: ConcurrencyLimits | None, in_flight: InFlightCounts
    ) -> None:
        self._connection, self._limits, self._in_flight = connection, limits, in_flight
        keys = [key for key in in_flight.by_key if key] if limits else []
        #: Keys whose jobs are to be left out.
        self.full_keys = [key for key in keys if not self._key_room(key)]
        #: Whether any jobs were left out.
        self.at_limit = False

    def has_room(self, tenant: str) -> bool:
        """Return whether *tenant* may have more jobs in flight."""
        if self._limits is None or self._tenant_room(tenant):
            return True
        self.at_limit = True
        return False

    def apply(self, tenant: str, found: list[ReadyJob]) -> Sequence[ReadyJob]:
        """Return the jobs *found*, none of full keys, that *tenant*, which has room, may have in flight."""
        if self._limits is None:
            return found
        room = {key: self._key_room(key) for key in {job.api_key for job in found} if key}
        allowed = fair_scheduling.apply_concurrency_limits(found, self._tenant_room(tenant), room)
        self.at_limit = self.at_limit or bool(self.full_keys) or len(allowed) < len(found)
        return allowed

    def _tenant_room(self, tenant: str) -> int:
        return self._room(account_of_tenant(tenant), self._in_flight.by_tenant.get(tenant, 0))

    def _key_room(self, key: str) -> int:
        return self._room(account_of_key(key), self._in_flight.by_key.get(key, 0))

    def _room(self, account: str, running: int) -> int:
        assert self._limits is not None
        return self._limits.get_room(self._connection, account, running)


def get_site_status(connection: Connection, site: str, now: datetime) -> SiteStatus:
    """Return the jobs in flight and the rate limits of *site*."""
    counts: dict[int, int] = {
        row["lane"]: row["jobs"] for row in _COUNTS_AT_SITE.all(connection, {"of_site": site})
    }
    egresses = rate_limits.live_egresses(connection, now) or DEFAULT_EGRESS
    return SiteStatus(
        site=site,
        published=counts.get(int(QueueStage.PUBLISHED), 0),
        leased=counts.get(int(QueueStage.LEASED), 0),
        rate_limits=rate_limits.get_for_sites(connection, [site], egresses)[site],
    )


def mark_published(
    connection: Connection, ready: Sequence[ReadyJob], until: datetime, leader: str | None
) -> Sequence[ReadyJob]:
    """Mark *ready* jobs as published if *leader* leads the dispatcher. Return those that were still ready."""
    if leader is not None and _IS_LEADER.first(connection, {"leader": leader}) is None:
        return []
    values = {"ids": [job.id for job in ready], "until": rows.to_micros(until)}
    attempts: dict[str, int] = {row.id: row.attempt for row in connection.execute(_MARK_PUBLISHED, values)}
    return [replace(job, attempt=attempts[job.id]) for job in ready if job.id in attempts]


def mark_ready(connection: Connection, published: Sequence[ReadyJob]) -> None:
    """Mark *published* attempts as ready again, unless they are claimed."""
    values = [
        {"job": job.id, "of_attempt": job.attempt, "rank": rows.to_micros_or_none(job.due)}
        for job in published
    ]
    _MARK_READY.run_many(connection, values)


def list_published(connection: Connection, limit: int) -> Sequence[ReadyJob]:
    """Return at most *limit* attempts that are marked as published."""
    return [_ready_from_row(row) for row in _PUBLISHED.all(connection, {"most": limit})]


def count_in_flight(connection: Connection) -> tuple[InFlightCounts, dict[str, tuple[int, int]]]:
    """Return the jobs in flight, and by site how many of them are published and leased."""
    by_tenant: dict[str, int] = defaultdict(int)
    by_tenant_and_site: dict[tuple[str, str], int] = defaultdict(int)
    by_key: dict[str, int] = defaultdict(int)
    by_site: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in _COUNTS.all(connection, {}):
        tenant, site, stage, count = row["tenant"], row["site"], row["lane"], row["jobs"]
        by_tenant[tenant] += count
        by_key[row["api_key"]] += count
        by_tenant_and_site[tenant, site] += count
        published, leased = by_site[site]
        if stage == QueueStage.PUBLISHED:
            by_site[site] = published + count, leased
        else:
            by_site[site] = published, leased + count
    return InFlightCounts(dict(by_tenant), dict(by_tenant_and_site), dict(by_key)), by_site


def next_window(connection: Connection, scan: Statement, after: str, size: int, **values: str) -> list[str]:
    """Return at most *size* values of *scan*: those after *after*, then from the beginning."""
    found = scan.column(connection, {"after": after, "most": size, **values})
    if after and len(found) < size:
        from_start = scan.column(connection, {"after": "", "most": size - len(found), **values})
        found += [value for value in from_start if value <= after]
    return found


def _list_sites(
    connection: Connection, tenants: Sequence[str], after: Mapping[str, str], size: int
) -> dict[str, list[str]]:
    """Return at most *size* sites of each of *tenants*: those after *after*, then from the beginning."""
    values = [{"after": after.get(tenant, ""), "most": size, "of_tenant": tenant} for tenant in tenants]
    rows_of = zip(tenants, READY_SITES.all_of_each(connection, values), strict=True)
    sites_of = {tenant: [row["value"] for row in found] for tenant, found in rows_of}
    for tenant, sites in sites_of.items():
        if len(sites) < size and tenant in after:
            sites_of[tenant] = next_window(connection, READY_SITES, after[tenant], size, of_tenant=tenant)
    return sites_of


def _list_ready(
    connection: Connection,
    sites_of: Mapping[str, Sequence[str]],
    most: Mapping[str, int],
    full_keys: Sequence[str],
) -> dict[str, dict[str, list[ReadyJob]]]:
    """Return the next jobs of each tenant at each of its sites, as many as *most* says of the site.

    Jobs of *full_keys* are left out.
    """
    pairs = [(tenant, site) for tenant, sites in sites_of.items() for site in sites if most[site] > 0]
    values = [{"of_tenant": tenant, "of_site": site, "most": most[site]} for tenant, site in pairs]
    if full_keys:
        keys = list(full_keys)
        found: Sequence[Sequence[rows.Row]] = [
            connection.execute(_READY_OF_OTHER_KEYS, {**each, "keys": keys}).mappings().all()
            for each in values
        ]
    else:
        found = _READY_AT_SITE.all_of_each(connection, values)
    listed: dict[str, dict[str, list[ReadyJob]]] = {tenant: {} for tenant in sites_of}
    for (tenant, site), rows_at_site in zip(pairs, found, strict=True):
        listed[tenant][site] = [_ready_from_row(row) for row in rows_at_site]
    return listed


def _in_order(
    jobs_by_site: Mapping[str, Sequence[ReadyJob]], shares: Mapping[str, int], limit: int
) -> list[ReadyJob]:
    """Return the first *limit* jobs of a tenant; those beyond the *shares* of their sites come last."""
    within = [jobs[: shares[site]] for site, jobs in jobs_by_site.items()]
    beyond = [jobs[shares[site] :] for site, jobs in jobs_by_site.items()]
    return list(islice(chain(merge(*within, key=_rank), merge(*beyond, key=_rank)), limit))


def _rank(job: ReadyJob) -> tuple[datetime | None, str]:
    return job.due, job.id


def _ready_from_row(row: rows.Row) -> ReadyJob:
    return ReadyJob(
        row["id"],
        row["attempt"],
        row["tenant"],
        Priority(row["priority"]),
        row["traceparent"],
        row["site"],
        rows.from_micros(row["due"]),
        row["api_key"],
    )
