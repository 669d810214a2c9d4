"""The rule that one FULL_ACCESS key works at all times, for changes of keys and of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, or_, select, text

from reelhaul_jobs.model.api_key import KeyState, last_full_access
from reelhaul_jobs.store.access_tables import FULL_ACCESS, api_keys, tenants
from reelhaul_jobs.store.rows import to_micros

# Changes that may take the last FULL_ACCESS key are made one after the other. An arbitrary number of ours.
_ADVISORY_LOCK = 0x5265656C6B65

# The level as text, so that both databases see that the partial index fits.
_WORKING_FULL_ACCESS = (
    select(func.count(), func.count().filter(api_keys.c.expire_time.is_(None)))
    .select_from(api_keys.join(tenants))
    .where(
        text(f"api_keys.permission = {FULL_ACCESS}"),
        api_keys.c.disabled.is_(False),
        api_keys.c.delete_time.is_(None),
        or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > bindparam("now")),
        tenants.c.disabled.is_(False),
        tenants.c.delete_time.is_(None),
    )
)


@contextmanager
def kept(connection: Connection, now: datetime, resource: str) -> Iterator[None]:
    """Raise STATE_CONFLICT if the block takes the last FULL_ACCESS key that works for good.

    The block changes *resource*, a key or a tenant; no other such block runs until the end of the
    transaction. If there is no such key before it, but one that works until its expiry, that one is kept.
    """
    lock(connection)
    before = permanence(connection, now)
    yield
    if permanence(connection, now) < before:
        raise last_full_access(resource, KeyState.ACTIVE.name)


def lock(connection: Connection) -> None:
    """Wait for other changes that may take the last FULL_ACCESS key, until the end of the transaction."""
    # SQLite has one writer at a time.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def permanence(connection: Connection, now: datetime) -> int:
    """Return 2 if a FULL_ACCESS key works for good, 1 if one works until its expiry, 0 if none works."""
    working, permanent = connection.execute(_WORKING_FULL_ACCESS, {"now": to_micros(now)}).one()
    return 2 if permanent else min(working, 1)
