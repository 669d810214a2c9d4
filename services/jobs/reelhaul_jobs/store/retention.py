"""Retention: old rows are deleted some at a time, so that no transaction keeps other writers waiting."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, delete, select, tuple_

from reelhaul_jobs.store import rows


def delete_oldest(connection: Connection, time: Column[Any], before: datetime, limit: int) -> int:
    """Delete the oldest *limit* rows, by *time*, of those from before *before*; return how many."""
    key = time.table.primary_key.columns
    oldest = select(*key).where(time < rows.to_micros(before)).order_by(time).limit(limit)
    return connection.execute(delete(time.table).where(tuple_(*key).in_(oldest))).rowcount
