"""The table of the quota ledger."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table

from reelhaul_jobs.store.tables import metadata

# What each key and each tenant used, by day and in total. Bytes reserved by jobs that have not ended:
# reserved - settled - released, which is the sum of jobs.reserved_bytes.
quota_ledger = Table(
    "quota_ledger",
    metadata,
    # "apiKeys/…" or "tenants/…".
    Column("account", String(80), primary_key=True),
    # Days since 1970; 0: all days.
    Column("day", Integer, primary_key=True),
    # Jobs admitted.
    Column("jobs", BigInteger, nullable=False),
    # Bytes fetched: reserved for jobs, received, and returned because they were not needed.
    Column("reserved", BigInteger, nullable=False),
    Column("settled", BigInteger, nullable=False),
    Column("released", BigInteger, nullable=False),
    # Bytes of artifacts that are stored now; of day 0 only: the sum of jobs.stored_bytes.
    Column("stored", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
