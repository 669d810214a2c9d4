"""Gates in SQL: read and written within the transaction of the job that passes."""

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
from reelhaul_jobs.store.tables import IN_FLIGHT, gates, jobs, workers
from reelhaul_runtime.sql.statements import Statement

_MICROSECOND = timedelta(microseconds=1)

# All of them: a claim may pass by another egress than it came by. In one order, lest two wait for each other.
_OF_SITE = Statement(
    select(gates).where(gates.c.site == bindparam("of_site")).order_by(gates.c.egress).with_for_update()
)
_OF_SITES = select(gates).where(gates.c.site.in_(bindparam("sites", expanding=True)))
_FORGET_ONE = Statement(
    delete(gates).where(gates.c.site == bindparam("of_site"), gates.c.egress == bindparam("of_egress"))
)
# Nothing is known of any, nearly always.
_ANY = Statement(select(literal_column("1")).select_from(gates).limit(literal_column("1")))
_LEASED = Statement(
    select(jobs.c.site, func.count().label("jobs"))
    .where(IN_FLIGHT, jobs.c.lane == literal_column(str(int(QueueStage.LEASED))))
    .group_by(jobs.c.site)
)
_EGRESSES = Statement(select(workers.c.egress).distinct().where(workers.c.seen_time > bindparam("since")))


def any_exist(connection: Connection) -> bool:
    """Whether there is a gate at all of which something is known."""
    return _ANY.first(connection, {}) is not None


def count_leased(connection: Connection) -> Mapping[str, int]:
    """How many jobs of each site workers hold."""
    return {row["site"]: row["jobs"] for row in _LEASED.all(connection, {})}


def get_view(connection: Connection, site: str, egress: str, now: datetime) -> RateLimitView:
    """How *site* stands for *egress*, but for the jobs leased; locked until they are written."""
    known = {row["egress"]: _gate_of(row) for row in _OF_SITE.all(connection, {"of_site": site})}
    if egress not in known:
        return RateLimitView(rate_limit=SiteRateLimit(site=site, egress=egress))
    live = live_egresses(connection, now) - {egress}
    others = (known.get(name, SiteRateLimit(site=site, egress=name)) for name in sorted(live))
    return RateLimitView(rate_limit=known[egress], other_egresses=tuple(others))


def get_for_sites(
    connection: Connection, sites: Iterable[str], live: frozenset[str]
) -> Mapping[str, tuple[SiteRateLimit, ...]]:
    """The gates of *sites*, one for each *live* egress."""
    asked = sorted(set(sites))
    if not asked:
        return {}
    found = [_gate_of(row) for row in connection.execute(_OF_SITES, {"sites": asked}).mappings()]
    known = {(gate.site, gate.egress): gate for gate in found}
    return {
        site: tuple(
            known.get((site, egress), SiteRateLimit(site=site, egress=egress)) for egress in sorted(live)
        )
        for site in asked
    }


def live_egresses(connection: Connection, now: datetime) -> frozenset[str]:
    """What the workers that live use."""
    since = rows.to_micros(now - WORKER_TIMEOUT)
    return frozenset(_EGRESSES.column(connection, {"since": since}))


def write(connection: Connection, gate: SiteRateLimit) -> None:
    """Keep *gate*; a plain one needs no row."""
    if gate.is_default:
        _FORGET_ONE.run(connection, {"of_site": gate.site, "of_egress": gate.egress})
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = _row_of(gate)
    statement = dialect.insert(gates)
    told = {name: statement.excluded[name] for name in row if name not in ("site", "egress")}
    upsert = statement.on_conflict_do_update(index_elements=[gates.c.site, gates.c.egress], set_=told)
    connection.execute(upsert, row)


def delete_idle(connection: Connection, before: datetime) -> None:
    """Drop gates at which nothing happened since *before*: their sites are asked no more."""
    moment = rows.to_micros(before)
    passed = func.coalesce(gates.c.next_start, 0) < moment
    connection.execute(delete(gates).where(passed, func.coalesce(gates.c.parked_until, 0) < moment))


def _row_of(gate: SiteRateLimit) -> dict[str, Any]:
    return {
        "site": gate.site,
        "egress": gate.egress,
        "delay": gate.delay // _MICROSECOND,
        "next_start": rows.to_micros_or_none(gate.next_start),
        "parked_until": rows.to_micros_or_none(gate.parked_until),
        "parked_since": rows.to_micros_or_none(gate.parked_since),
        "cooldown": gate.cooldown // _MICROSECOND,
        "reason": gate.reason,
        "probe": gate.probe,
    }


def _gate_of(row: rows.Row) -> SiteRateLimit:
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
