"""What the tests of quotas share: tenants and keys with limits, and the check that the ledger sums."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, insert, select
from tests.job_stores import NOW, SqlStore

from reelhaul.admin.v1.api_key_pb2 import Quota
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.model.quota import ALL_DAYS
from reelhaul_jobs.store.access_tables import api_keys, tenants
from reelhaul_jobs.store.quota_tables import quota_ledger
from reelhaul_jobs.store.rows import to_micros
from reelhaul_jobs.store.tables import jobs

MB = 1_000_000


async def add_tenant(store: SqlStore, tenant: str, quota: Quota, **keys: Quota) -> None:
    """Store *tenant* and its *keys* with their quotas."""
    times = {"revision": 1, "create_time": to_micros(NOW), "update_time": to_micros(NOW)}
    sites = {"allowed_sites": "[]", "denied_sites": "[]"}
    row = {"id": tenant, "display_name": "", "contact": "", "quota": quota.SerializeToString()}
    key_rows = [
        {
            "id": key,
            "tenant": tenant,
            "display_name": "",
            "permission": PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS,
            "grants": "[]",
            "quota": key_quota.SerializeToString(),
            "allowed_cidrs": "[]",
            "hash": key.encode(),
            "key_prefix": "rh_live_",
            "disabled": False,
        }
        for key, key_quota in keys.items()
    ]

    def op(connection: Connection) -> None:
        connection.execute(insert(tenants), {**row, **times, **sites, "disabled": False})
        if key_rows:
            connection.execute(insert(api_keys), [{**row, **times, **sites} for row in key_rows])

    await store.database.write(op)


async def read_ledger(store: SqlStore, account: str, day: int = ALL_DAYS) -> dict[str, int]:
    """Return the amounts of one row of the ledger; 0 if there is none."""
    rows = await store.database.read(
        lambda connection: connection.execute(
            select(quota_ledger).where(quota_ledger.c.account == account, quota_ledger.c.day == day)
        ).all()
    )
    amounts = dict(rows[0]._mapping) if rows else {}
    names = ("jobs", "reserved", "settled", "released", "stored")
    return {name: amounts.get(name, 0) for name in names}


async def check_sums(store: SqlStore, tenant: str) -> dict[str, int]:
    """Check that the ledger of *tenant* and its keys agrees with the rows of jobs; return bytes settled."""

    def read(connection: Connection) -> tuple[list[Any], list[Any]]:
        keys = connection.scalars(select(api_keys.c.id).where(api_keys.c.tenant == tenant)).all()
        accounts = [f"tenants/{tenant}", *(f"apiKeys/{key}" for key in keys)]
        ledger = connection.execute(select(quota_ledger).where(quota_ledger.c.account.in_(accounts)))
        rows = connection.execute(select(jobs).where(jobs.c.tenant == tenant))
        return list(ledger), list(rows)

    ledger_rows, job_rows = await store.database.read(read)
    reserved, stored = defaultdict[tuple[str, int], int](int), defaultdict[str, int](int)
    for job in job_rows:
        assert job.reserved_bytes >= 0
        assert job.end_time is None or job.reserved_bytes == 0
        for account in [f"tenants/{tenant}", *([f"apiKeys/{job.api_key}"] if job.api_key else [])]:
            stored[account] += job.stored_bytes
            for day in (job.quota_day or ALL_DAYS, ALL_DAYS):
                reserved[account, day] += job.reserved_bytes
    totals = defaultdict[str, list[int]](lambda: [0] * 4)
    for row in ledger_rows:
        assert row.reserved - row.settled - row.released == reserved[row.account, row.day]
        assert min(row.jobs, row.reserved, row.settled, row.released, row.stored) >= 0
        if row.day != ALL_DAYS:
            amounts = (row.jobs, row.reserved, row.settled, row.released)
            totals[row.account] = [a + b for a, b in zip(totals[row.account], amounts, strict=True)]
    for row in ledger_rows:
        if row.day == ALL_DAYS:
            assert [row.jobs, row.reserved, row.settled, row.released] == totals[row.account]
            assert row.stored == stored[row.account]
    return {account: settled for account, (_, _, settled, _) in totals.items()}
