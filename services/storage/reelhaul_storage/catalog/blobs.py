"""SQL of what is known about the bytes of blobs: when they were verified, and which are damaged."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, exists, func, literal, or_, select, update

from reelhaul_storage.catalog.tables import UtcMicroseconds, artifacts, blobs
from reelhaul_storage.digests import Digests
from reelhaul_storage.model import Blob, BlobHealth

# Longer than reading the largest blob takes: so two replicas do not read the same one.
_CLAIM = timedelta(days=1)


def claim_blob_to_verify(connection: Connection, verified_before: datetime, now: datetime) -> Blob | None:
    claimable = (
        or_(blobs.c.scrub_time.is_(None), blobs.c.scrub_time < now - _CLAIM),
        # Others may not be published yet.
        exists().where(artifacts.c.key == blobs.c.key),
    )
    candidate = select(blobs).where(*claimable).limit(1).with_for_update(skip_locked=True, of=blobs)
    # Two queries: the databases sort NULL differently.
    never, before = blobs.c.verify_time.is_(None), blobs.c.verify_time < verified_before
    row = connection.execute(candidate.where(never)).mappings().first()
    if row is None:
        oldest_first = candidate.where(before).order_by(blobs.c.verify_time, blobs.c.key)
        row = connection.execute(oldest_first).mappings().first()
    if row is None:
        return None
    connection.execute(update(blobs).where(blobs.c.key == row["key"]).values(scrub_time=now))
    return Blob(row["key"], Digests(row["size"], row["sha256"], row["crc32c"]))


def has_content(key: str, content: Digests) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that blob *key* has *content*.

    An artifact may differ from its blob: a client can state a false size and CRC32C for a digest.
    """
    return blobs.c.key == key, blobs.c.size == content.size, blobs.c.crc32c == content.crc32c


def is_intact(connection: Connection, key: str) -> bool:
    verified = (blobs.c.verify_time.is_not(None), blobs.c.damage_time.is_(None))
    return connection.execute(select(blobs.c.key).where(blobs.c.key == key, *verified)).first() is not None


def mark_verified(connection: Connection, key: str, time: datetime) -> None:
    # The blob first, as every transaction locks them.
    values = {"verify_time": time, "damage_time": None}
    connection.execute(update(blobs).where(blobs.c.key == key).values(values))
    connection.execute(update(artifacts).where(artifacts.c.key == key).values(verify_time=time))


def mark_damaged(connection: Connection, key: str, content: Digests, since: datetime, time: datetime) -> None:
    unverified = or_(blobs.c.verify_time.is_(None), blobs.c.verify_time < since)
    first_time = func.coalesce(blobs.c.damage_time, literal(time, UtcMicroseconds))
    values = {"damage_time": first_time, "verify_time": None}
    connection.execute(update(blobs).where(*has_content(key, content), unverified).values(values))


def has_blobs(connection: Connection) -> bool:
    return connection.execute(select(blobs.c.key).limit(1)).first() is not None


def get_blob_health(connection: Connection) -> BlobHealth:
    damaged = connection.execute(select(func.count()).where(blobs.c.damage_time.is_not(None))).scalar_one()
    unread = select(blobs.c.key).where(blobs.c.verify_time.is_(None), blobs.c.damage_time.is_(None)).limit(1)
    if connection.execute(unread).first() is not None:
        return BlobHealth(damaged, None)
    return BlobHealth(damaged, connection.execute(select(func.min(blobs.c.verify_time))).scalar())
