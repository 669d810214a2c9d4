"""Artifacts in SQL, and the end of blobs that none of them means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update

from reelhaul_runtime.errors import NotFound
from reelhaul_storage.catalog.rows import artifact_from_row, artifact_values
from reelhaul_storage.catalog.tables import artifacts, blobs, doomed, uploads
from reelhaul_storage.model import Artifact, Query


def read(connection: Connection, id: str) -> Artifact:  # noqa: A002
    """As Catalogue.artifact."""
    row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"artifacts/{id}")
    return artifact_from_row(row)


def page(connection: Connection, query: Query) -> list[Artifact]:
    """As Catalogue.artifacts."""
    asked = select(artifacts)
    if query.tenant is not None:
        asked = asked.where(artifacts.c.tenant == query.tenant)
    for attribute, value in query.equal:
        asked = asked.where(artifacts.c[attribute] == value)
    order, last = artifacts.c[query.order], artifacts.c.id
    if query.after is not None:
        place, id_ = query.after
        further = (order < place, last < id_) if query.descending else (order > place, last > id_)
        asked = asked.where(or_(further[0], and_(order == place, further[1])))
    by = (order.desc(), last.desc()) if query.descending else (order, last)
    rows = connection.execute(asked.order_by(*by).limit(query.limit)).mappings()
    return [artifact_from_row(row) for row in rows]


def find(connection: Connection, tenant: str, sha256: Iterable[str], now: datetime) -> dict[str, str]:
    """As Catalogue.find."""
    alive = artifacts.c.tenant == tenant, artifacts.c.expire_time > now
    asked = select(artifacts.c.sha256, artifacts.c.id).where(*alive, artifacts.c.sha256.in_(list(sha256)))
    return {row.sha256: row.id for row in connection.execute(asked)}


def change(connection: Connection, id: str, make: Callable[[Artifact], Artifact]) -> Artifact:  # noqa: A002
    """As Catalogue.change."""
    locked = select(artifacts).where(artifacts.c.id == id).with_for_update()
    row = connection.execute(locked).mappings().first()
    if row is None:
        raise NotFound(f"artifacts/{id}")
    changed = make(artifact_from_row(row))
    connection.execute(update(artifacts).where(artifacts.c.id == id).values(artifact_values(changed)))
    return changed


def remove(
    connection: Connection, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
) -> None:
    """As Catalogue.remove."""
    wanted = list(dict.fromkeys(ids))
    locked = select(artifacts).where(artifacts.c.id.in_(wanted)).order_by(artifacts.c.id).with_for_update()
    found = {row["id"]: artifact_from_row(row) for row in connection.execute(locked).mappings()}
    for id_ in wanted:
        if id_ not in found:
            raise NotFound(f"artifacts/{id_}")
        check(found[id_])
    _forget(connection, wanted, {artifact.key for artifact in found.values()}, now)


def expire(connection: Connection, now: datetime, limit: int) -> int:
    """As Catalogue.expire."""
    asked = select(artifacts.c.id, artifacts.c.key).where(artifacts.c.expire_time <= now).limit(limit)
    gone = {row.id: row.key for row in connection.execute(asked.with_for_update(skip_locked=True))}
    _forget(connection, list(gone), set(gone.values()), now)
    return len(gone)


def doom_unused(connection: Connection, before: datetime, now: datetime, limit: int) -> None:
    """As Catalogue.doom_unused."""
    asked = select(blobs.c.key).where(blobs.c.create_time < before, *_unused(now)).limit(limit)
    _doom(connection, connection.execute(asked).scalars(), now)


def doomed_keys(connection: Connection, limit: int) -> list[str]:
    """As Catalogue.doomed."""
    return list(connection.execute(select(doomed.c.key).order_by(doomed.c.doom_time).limit(limit)).scalars())


def forget(connection: Connection, keys: Iterable[str]) -> None:
    """As Catalogue.forget."""
    connection.execute(delete(doomed).where(doomed.c.key.in_(list(keys))))


def known(connection: Connection, keys: Iterable[str]) -> set[str]:
    """As Catalogue.known_keys."""
    wanted = list(keys)
    asked = select(blobs.c.key).where(blobs.c.key.in_(wanted))
    both = asked.union(select(doomed.c.key).where(doomed.c.key.in_(wanted)))
    return set(connection.execute(both).scalars())


def _forget(connection: Connection, ids: list[str], keys: set[str], now: datetime) -> None:
    connection.execute(delete(artifacts).where(artifacts.c.id.in_(ids)))
    _doom(connection, keys, now)


def _doom(connection: Connection, keys: Iterable[str], now: datetime) -> None:
    # One order for all, or two of us may wait for each other.
    for key in sorted(keys):
        # Locked first, looked at after: a claim made meanwhile is seen.
        connection.execute(select(blobs.c.key).where(blobs.c.key == key).with_for_update())
        unused = delete(blobs).where(blobs.c.key == key, *_unused(now))
        if connection.execute(unused).rowcount:
            connection.execute(insert(doomed).values(key=key, doom_time=now))


def _unused(now: datetime) -> tuple[Any, Any]:
    claimed = and_(uploads.c.claimed_key == blobs.c.key, uploads.c.claimed_until > now)
    return ~exists().where(artifacts.c.key == blobs.c.key), ~exists().where(claimed)
