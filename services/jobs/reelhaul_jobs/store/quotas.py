"""The quota ledger in SQL: jobs reserve, use and return their quotas in the transaction of their change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select, text, update

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_jobs.model import quota
from reelhaul_jobs.model.fair_scheduling import InFlightCounts
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.quota import ALL_DAYS, LedgerKey, LedgerRow, QuotaBook
from reelhaul_jobs.model.rate_limit import UNLIMITED
from reelhaul_jobs.model.states import QueueStage
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.quotas import AccountUsage
from reelhaul_jobs.store.quota_tables import quota_ledger
from reelhaul_jobs.store.rows import Row
from reelhaul_jobs.store.tables import IN_FLIGHT, jobs
from reelhaul_runtime.auth.level_quotas import LevelQuotas, effective_quota, level_quotas
from reelhaul_runtime.sql.database import Database
from reelhaul_runtime.sql.statements import Statement

# Limits change seldom, and the dispatcher asks for them many times a second.
_CACHE_SECONDS, _MAX_CACHED = 1.0, 10_000
# A published job counts: a worker may take it at any moment.
_RUNNING_STAGES = (QueueStage.PUBLISHED, QueueStage.LEASED)
_NO_LIMITS = api_key_pb2.Quota()
_AMOUNTS = ("jobs", "reserved", "settled", "released", "stored")

# A transaction holds writes of many accounts, in any order: with locks of single rows two of them would often
# wait for each other until PostgreSQL finds out, after a second. SQLite has one writer anyway.
_LOCK_LEDGER = Statement(text("SELECT pg_advisory_xact_lock(hashtext('quota_ledger'))"))
# For each dialect: a table of the elements of a JSON array, and the expression of one member of an element.
_ELEMENTS = {
    "sqlite": ("json_each(:{}) AS listed", "json_extract(listed.value, '$[{}]')", "listed.value"),
    "postgresql": (
        "jsonb_array_elements(CAST(:{} AS jsonb)) AS listed(value)",
        "listed.value ->> {}",
        "listed.value #>> '{{}}'",
    ),
}


def _select_rows(dialect: str) -> Statement:
    """Return the query of the rows of ``:keys``, an array of arrays of account and day."""
    source, member, _ = _ELEMENTS[dialect]
    names = ", ".join(f"ledger.{name}" for name in ("account", "day", *_AMOUNTS))
    return Statement(
        text(
            f"SELECT {names} FROM {source.format('keys')} JOIN quota_ledger AS ledger"  # noqa: S608
            f" ON ledger.account = {member.format(0)} AND ledger.day = CAST({member.format(1)} AS INTEGER)"
        )
    )


def _select_quotas(dialect: str) -> Statement:
    """Return the query of account, level and quota of ``:key_ids`` and ``:tenant_ids``."""
    source, _, value = _ELEMENTS[dialect]
    value = value.format()
    return Statement(
        text(
            "SELECT 'apiKeys/' || api_keys.id AS account, permission, quota"  # noqa: S608
            f" FROM {source.format('key_ids')} JOIN api_keys ON api_keys.id = {value}"
            " UNION ALL SELECT 'tenants/' || tenants.id, 0, quota"
            f" FROM {source.format('tenant_ids')} JOIN tenants ON tenants.id = {value}"
        )
    )


_SELECT_ROWS = {dialect: _select_rows(dialect) for dialect in _ELEMENTS}
_SELECT_QUOTAS = {dialect: _select_quotas(dialect) for dialect in _ELEMENTS}
_COLUMNS = ("account", "day", *_AMOUNTS)
_WRITE_ROW = Statement(
    text(
        f"INSERT INTO quota_ledger ({', '.join(_COLUMNS)})"  # noqa: S608
        f" VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) ON CONFLICT (account, day) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in _AMOUNTS)
    )
)
_BY_KEY = (quota_ledger.c.account == bindparam("of_account")) & (quota_ledger.c.day == bindparam("of_day"))
_REMOVE_STORED = Statement(
    update(quota_ledger).where(_BY_KEY).values(stored=quota_ledger.c.stored - bindparam("deleted"))
)
_ROW = Statement(select(*(quota_ledger.c[name] for name in _AMOUNTS)).where(_BY_KEY))
_COUNT_RUNNING = select(func.count()).where(
    IN_FLIGHT, jobs.c.lane.in_([literal_column(str(int(stage))) for stage in _RUNNING_STAGES])
)
_COUNT_OF_TENANT = Statement(_COUNT_RUNNING.where(jobs.c.tenant == bindparam("id")))
_COUNT_OF_KEY = Statement(_COUNT_RUNNING.where(jobs.c.api_key == bindparam("id")))
_PURGE_JOB = Statement(
    delete(jobs)
    .where(jobs.c.id == bindparam("job"))
    .returning(jobs.c.tenant, jobs.c.api_key, jobs.c.stored_bytes)
)
_DELETE_OLD_DAYS = Statement(
    delete(quota_ledger).where(
        quota_ledger.c.day != ALL_DAYS,
        quota_ledger.c.day < bindparam("before"),
        # Jobs that have not ended still change it.
        quota_ledger.c.reserved == quota_ledger.c.settled + quota_ledger.c.released,
    )
)


@dataclass(frozen=True, slots=True)
class QuotaLedger:
    """What keys and tenants use of their quotas."""

    #: Whether new jobs count: not if callers have no keys.
    counts_jobs: bool = False
    #: Limits of keys that set none.
    levels: LevelQuotas = field(default_factory=lambda: level_quotas({}))

    def admit(self, connection: Connection, new: Sequence[Job]) -> list[Job]:
        """Return *new* jobs with their reservations. Raises QUOTA_EXCEEDED; then none has one."""
        with self.open_for(connection, new) as book:
            return admit_all(book, new)

    @contextmanager
    def open_for(self, connection: Connection, new: Sequence[Job]) -> Iterator[QuotaBook | None]:
        """Yield the book to admit *new* jobs with, and write it afterwards; None if they do not count."""
        if not self.counts_jobs or not new:
            yield None
            return
        book_keys = {key for job in new for key in quota.ledger_keys(job, quota.day_of(job.update_time))}
        with self._open(connection, book_keys) as book:
            yield book

    def settle(
        self, connection: Connection, changes: Sequence[Transition], now: datetime | None = None
    ) -> Sequence[Transition]:
        """Return *changes* with what their jobs reserve from now on.

        Jobs that a user retries are admitted again: raises QUOTA_EXCEEDED. Renewals are extended if *now* is
        set; a job that has received more than its quotas have left ends with QUOTA_EXCEEDED instead.
        """
        book_keys = set[LedgerKey]()
        for change in changes:
            if quota.is_readmitted(change):
                if self.counts_jobs:
                    book_keys |= quota.ledger_keys(change.job, quota.day_of(change.job.update_time))
            elif quota.needs_settlement(change) or (now is not None and quota.needs_extension(change)):
                book_keys |= quota.ledger_keys(change.before, change.before.quota_day or ALL_DAYS)
        if not book_keys:
            return changes
        with self._open(connection, book_keys) as book:
            return [self._settle_one(book, change, now) for change in changes]

    def _settle_one(self, book: QuotaBook, change: Transition, now: datetime | None) -> Transition:
        if quota.is_readmitted(change):
            return replace(change, job=book.admit(change.job)) if self.counts_jobs else change
        if quota.needs_settlement(change):
            return book.settle(change)
        if now is not None and quota.needs_extension(change):
            return book.extend(change, now)
        return change

    @contextmanager
    def _open(self, connection: Connection, book_keys: set[LedgerKey]) -> Iterator[QuotaBook]:
        """Yield the rows of *book_keys* and write those that the block changed; no other transaction does."""
        _lock(connection)
        listed = json.dumps(sorted(book_keys))
        before = dict.fromkeys(book_keys, LedgerRow())
        for row in _SELECT_ROWS[connection.dialect.name].all(connection, {"keys": listed}):
            before[row["account"], row["day"]] = LedgerRow(*(row[name] for name in _AMOUNTS))
        limits = self.get_limits(connection, {account for account, _ in book_keys})
        book = QuotaBook({key: replace(row) for key, row in before.items()}, limits)
        yield book
        changed = [key for key, row in book.rows.items() if row != before[key]]
        _WRITE_ROW.run_many(connection, [_values(key, book.rows[key]) for key in changed])

    def get_limits(self, connection: Connection, accounts: Iterable[str]) -> Mapping[str, api_key_pb2.Quota]:
        """Return the limits of those of *accounts* that exist."""
        by_collection: dict[str, list[str]] = {"apiKeys": [], "tenants": []}
        for account in accounts:
            collection, _, account_id = account.partition("/")
            by_collection[collection].append(account_id)
        values = {
            "key_ids": json.dumps(by_collection["apiKeys"]),
            "tenant_ids": json.dumps(by_collection["tenants"]),
        }
        rows = _SELECT_QUOTAS[connection.dialect.name].all(connection, values)
        return {row["account"]: self._limits(row) for row in rows}

    def _limits(self, row: Row) -> api_key_pb2.Quota:
        own = api_key_pb2.Quota.FromString(row["quota"])
        # Level 0 is a tenant, whose limits have no defaults.
        return effective_quota(row["permission"], own, _NO_LIMITS, self.levels)


class ConcurrencyLimits:
    """The limits of concurrent jobs of keys and tenants, as of a moment ago."""

    def __init__(self, ledger: QuotaLedger) -> None:
        self._ledger = ledger
        # By account, with the time of the read.
        self._limits: dict[str, tuple[float, int]] = {}

    def get_room(self, connection: Connection, account: str, running: int) -> int:
        """Return how many more jobs *account*, which has *running* ones, may have at once."""
        read_at, limit = self._limits.get(account, (float("-inf"), 0))
        if time.monotonic() - read_at > _CACHE_SECONDS:
            limit = self._ledger.get_limits(connection, [account]).get(account, _NO_LIMITS).concurrent_jobs
            if len(self._limits) >= _MAX_CACHED:
                self._limits.clear()
            self._limits[account] = time.monotonic(), limit
        return max(0, limit - running) if limit > 0 else UNLIMITED

    def find_full(self, connection: Connection, in_flight: InFlightCounts) -> frozenset[str]:
        """Return the accounts that have as many jobs in flight as they may."""
        running = {quota.account_of_tenant(tenant): jobs for tenant, jobs in in_flight.by_tenant.items()}
        running |= {quota.account_of_key(key): jobs for key, jobs in in_flight.by_key.items() if key}
        limits = self._ledger.get_limits(connection, running)
        return frozenset(
            account
            for account, quota_of in limits.items()
            if 0 < quota_of.concurrent_jobs <= running[account]
        )


class SqlQuotaStore:
    """The QuotaStore of one database, which also has the jobs."""

    def __init__(self, database: Database, ledger: QuotaLedger | None = None) -> None:
        self._database = database
        self._ledger = ledger or QuotaLedger()

    async def get_usage(self, account: str, now: datetime) -> AccountUsage:
        def read(connection: Connection) -> AccountUsage:
            return AccountUsage(
                limits=self._ledger.get_limits(connection, [account]).get(account, _NO_LIMITS),
                today=_get_row(connection, account, quota.day_of(now)),
                total=_get_row(connection, account, ALL_DAYS),
                running=_count_running(connection, account),
            )

        return await self._database.read(read)

    async def find_full_account(self, tenant: str, api_key: str) -> tuple[str, int] | None:
        accounts = [quota.account_of_tenant(tenant), *([quota.account_of_key(api_key)] if api_key else [])]

        def read(connection: Connection) -> tuple[str, int] | None:
            limits = self._ledger.get_limits(connection, accounts)
            for account in accounts:
                limit = limits.get(account, _NO_LIMITS).concurrent_jobs
                if 0 < limit <= _count_running(connection, account):
                    return account, limit
            return None

        return await self._database.read(read)


def _get_row(connection: Connection, account: str, day: int) -> LedgerRow:
    row = _ROW.first(connection, {"of_account": account, "of_day": day})
    return LedgerRow(**row) if row else LedgerRow()


def _count_running(connection: Connection, account: str) -> int:
    collection, _, account_id = account.partition("/")
    count = _COUNT_OF_TENANT if collection == "tenants" else _COUNT_OF_KEY
    return int(count.column(connection, {"id": account_id})[0])


def admit_all(book: QuotaBook | None, new: Sequence[Job]) -> list[Job]:
    """Return *new* jobs with their reservations in *book*. Raises QUOTA_EXCEEDED; then none has one."""
    if book is None:
        return list(new)
    with book.all_or_none():
        return [book.admit(job) for job in new]


def purge_job(connection: Connection, job_id: str) -> None:
    """Delete the row of a job whose artifacts are deleted; a missing row is not an error."""
    row = _PURGE_JOB.first(connection, {"job": job_id})
    if row is None or not row["stored_bytes"]:
        return
    accounts = [quota.account_of_tenant(row["tenant"])]
    if row["api_key"]:
        accounts.append(quota.account_of_key(row["api_key"]))
    values = [
        {"of_account": account, "of_day": ALL_DAYS, "deleted": row["stored_bytes"]}
        for account in sorted(accounts)
    ]
    _lock(connection)
    _REMOVE_STORED.run_many(connection, values)


def delete_old_days(connection: Connection, before: datetime) -> None:
    """Delete what was used on days before *before*, except by jobs that have not ended."""
    _lock(connection)
    _DELETE_OLD_DAYS.run(connection, {"before": quota.day_of(before)})


def _lock(connection: Connection) -> None:
    """Let no other transaction read the ledger to change it until this one ends."""
    if connection.dialect.name == "postgresql":
        _LOCK_LEDGER.run(connection, {})


def _values(key: LedgerKey, row: LedgerRow) -> dict[str, Any]:
    amounts = {name: getattr(row, name) for name in _AMOUNTS}
    return {"account": key[0], "day": key[1], **amounts}
