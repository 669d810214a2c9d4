"""Reads and writes rate limits, within the transaction of the lease update that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul_jobs.model.rate_limit import WORKER_TIMEOUT, SiteRateLimit
from reelhaul_jobs.model.rate_limited_lease import RateLimitView
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import IN_FLIGHT, jobs, site_rate_limits, workers
from reelhaul_runtime.sql.statements import Statement

_MICROSECOND = timedelta(microseconds=1)

# All egresses of the site: a claim may use another one than it names. Locked in one order, against deadlocks.
_OF_SITE = Statement(
    select(site_rate_limits)
    .where(site_rate_limits.c.site == bindparam("of_site"))
    .order_by(site_rate_limits.c.egress)
    .with_for_update()
)
_OF_SITES = select(site_rate_limits).where(site_rate_limits.c.site.in_(bindparam("sites", expanding=True)))
_DELETE = Statement(
    delete(site_rate_limits).where(
        site_rate_limits.c.site == bindparam("of_site"), site_rate_limits.c.egress == bindparam("of_egress")
    )
)
# The table is empty most of the time.
_ANY = Statement(select(literal_column("1")).select_from(site_rate_limits).limit(literal_column("1")))
_LEASED = Statement(
    select(jobs.c.site, func.count().label("jobs"))
    .where(IN_FLIGHT, jobs.c.lane == literal_column(str(int(QueueStage.LEASED))))
    .group_by(jobs.c.site)
)
_EGRESSES = Statement(select(workers.c.egress).distinct().where(workers.c.seen_time > bindparam("since")))


def any_exist(connection: Connection) -> bool:
    """Return whether any rate limit is stored."""
    return _ANY.first(connection, {}) is not None


def count_leased(connection: Connection) -> Mapping[str, int]:
    """Count the leased jobs of each site."""
    return {row["site"]: row["jobs"] for row in _LEASED.all(connection, {})}


def get_view(connection: Connection, site: str, egress: str, now: datetime) -> RateLimitView:
    """Return the rate limits of *site* seen from *egress*, locked, without the count of leased jobs."""
    stored = {row["egress"]: _from_row(row) for row in _OF_SITE.all(connection, {"of_site": site})}
    if egress not in stored:
        return RateLimitView(rate_limit=SiteRateLimit(site=site, egress=egress))
    names = sorted(live_egresses(connection, now) - {egress})
    others = (stored.get(name, SiteRateLimit(site=site, egress=name)) for name in names)
    return RateLimitView(rate_limit=stored[egress], other_egresses=tuple(others))


def get_for_sites(
    connection: Connection, sites: Iterable[str], egresses: frozenset[str]
) -> Mapping[str, tuple[SiteRateLimit, ...]]:
    """Return the rate limits of *sites*, one for each of *egresses*."""
    names = sorted(set(sites))
    if not names:
        return {}
    found = [_from_row(row) for row in connection.execute(_OF_SITES, {"sites": names}).mappings()]
    stored = {(limit.site, limit.egress): limit for limit in found}
    return {
        site: tuple(
            stored.get((site, egress), SiteRateLimit(site=site, egress=egress)) for egress in sorted(egresses)
        )
        for site in names
    }


def live_egresses(connection: Connection, now: datetime) -> frozenset[str]:
    """Return the egresses of the live workers."""
    since = rows.to_micros(now - WORKER_TIMEOUT)
    return frozenset(_EGRESSES.column(connection, {"since": since}))


def write(connection: Connection, limit: SiteRateLimit) -> None:
    """Store *limit*; delete its row if it is the default."""
    if limit.is_default:
        _DELETE.run(connection, {"of_site": limit.site, "of_egress": limit.egress})
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = _to_row(limit)
    statement = dialect.insert(site_rate_limits)
    new_values = {name: statement.excluded[name] for name in row if name not in ("site", "egress")}
    upsert = statement.on_conflict_do_update(
        index_elements=[site_rate_limits.c.site, site_rate_limits.c.egress], set_=new_values
    )
    connection.execute(upsert, row)


def delete_idle(connection: Connection, before: datetime) -> None:
    """Delete rate limits without an event since *before*: their sites are not used any more."""
    moment = rows.to_micros(before)
    started = func.coalesce(site_rate_limits.c.next_start, 0) < moment
    connection.execute(
        delete(site_rate_limits).where(started, func.coalesce(site_rate_limits.c.parked_until, 0) < moment)
    )


def _to_row(limit: SiteRateLimit) -> dict[str, Any]:
    return {
        "site": limit.site,
        "egress": limit.egress,
        "delay": limit.delay // _MICROSECOND,
        "next_start": rows.to_micros_or_none(limit.next_start),
        "parked_until": rows.to_micros_or_none(limit.parked_until),
        "parked_since": rows.to_micros_or_none(limit.parked_since),
        "cooldown": limit.cooldown // _MICROSECOND,
        "reason": limit.reason,
        "probe": limit.probe,
    }


def _from_row(row: rows.Row) -> SiteRateLimit:
    return SiteRateLimit(
        site=row["site"],
        egress=row["egress"],
        delay=timedelta(microseconds=row["delay"]),
        next_start=rows.from_micros_or_none(row["next_start"]),
        parked_until=rows.from_micros_or_none(row["parked_until"]),
        parked_since=rows.from_micros_or_none(row["parked_since"]),
        cooldown=timedelta(microseconds=row["cooldown"]),
        reason=row["reason"],
        probe=row["probe"],
    )
