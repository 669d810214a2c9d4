"""SQL of artifacts, and of blobs that lost their last reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)

from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.filters.ast import And, Node, Operator, Or, Pattern, Term, mentions_field
from reelhaul_runtime.sql.filter_conditions import ToColumn, condition
from reelhaul_runtime.sql.writer import after_commit
from reelhaul_storage.catalog.blobs import has_content
from reelhaul_storage.catalog.rows import artifact_from_row, artifact_values
from reelhaul_storage.catalog.tables import artifacts, blobs, doomed, uploads
from reelhaul_storage.digests import Digests
from reelhaul_storage.metrics import DELETED_BYTES
from reelhaul_storage.model import Artifact, Query, TenantUsage

_JOINED = artifacts.join(blobs, blobs.c.key == artifacts.c.key)
_ARTIFACTS = select(*artifacts.c, blobs.c.damage_time).select_from(_JOINED)


def _as_is(value: Any) -> Any:
    return value


_FILTER_COLUMNS: Mapping[str, tuple[ColumnElement[Any], ToColumn]] = {
    "size_bytes": (artifacts.c.size, _as_is),
    "damage_time": (blobs.c.damage_time, _as_is),
    **{
        name: (artifacts.c[name], _as_is)
        for name in (
            "tenant",
            "job",
            "epoch",
            "kind",
            "language_code",
            "labels",
            "media_type",
            "file_name",
            "create_time",
            "expire_time",
            "verify_time",
        )
    },
}


def get_artifact(connection: Connection, id: str) -> Artifact:  # noqa: A002
    row = connection.execute(_ARTIFACTS.where(artifacts.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"artifacts/{id}")
    return artifact_from_row(row)


def get_artifacts(connection: Connection, ids: Iterable[str]) -> list[Artifact]:
    rows = connection.execute(_ARTIFACTS.where(artifacts.c.id.in_(list(ids)))).mappings()
    return [artifact_from_row(row) for row in rows]


def is_cheap(query: Query) -> bool:
    """Return whether an index finds the artifacts of *query*, rather than a scan of many rows."""
    return query.tenant is not None if query.where is None else _is_selective(query.where)


def list_artifacts(connection: Connection, query: Query) -> list[Artifact]:
    statement = _ARTIFACTS.where(*_conditions(query.tenant, query.where))
    order: ColumnElement[Any] = artifacts.c[query.order]
    id_ = artifacts.c.id
    if query.where is not None and _is_selective(query.where):
        # Else SQLite reads all artifacts of the tenant in this order, rather than those of the jobs.
        order = type_coerce(type_coerce(order, BigInteger) + 0, order.type)
    if query.after is not None:
        last_value, last_id = query.after
        if query.descending:
            beyond = or_(order < last_value, and_(order == last_value, id_ < last_id))
        else:
            beyond = or_(order > last_value, and_(order == last_value, id_ > last_id))
        statement = statement.where(beyond)
    order_by = (order.desc(), id_.desc()) if query.descending else (order, id_)
    rows = connection.execute(statement.order_by(*order_by).limit(query.limit)).mappings()
    return [artifact_from_row(row) for row in rows]


def summarize_artifacts(connection: Connection, tenant: str | None, where: Node | None) -> list[TenantUsage]:
    size = func.sum(artifacts.c.size).label("size")
    statement = select(artifacts.c.tenant, func.count().label("artifacts"), size)
    if where is not None and mentions_field(where, "damage_time"):
        statement = statement.select_from(_JOINED)
    grouped = statement.where(*_conditions(tenant, where)).group_by(artifacts.c.tenant)
    rows = connection.execute(grouped.order_by(size.desc(), artifacts.c.tenant))
    # PostgreSQL returns a sum of integers as a decimal.
    return [TenantUsage(row.tenant, row.artifacts, int(row.size)) for row in rows]


def count(connection: Connection) -> tuple[int, int, int]:
    size, damage = func.coalesce(func.sum(blobs.c.size), 0), func.count(blobs.c.damage_time)
    total, damaged = connection.execute(select(size, damage)).one()
    return connection.execute(select(func.count()).select_from(artifacts)).scalar_one(), int(total), damaged


def find_by_sha256(
    connection: Connection, tenant: str, sha256: Iterable[str], now: datetime
) -> dict[str, str]:
    statement = (
        select(artifacts.c.sha256, artifacts.c.id)
        .select_from(_JOINED)
        .where(
            artifacts.c.tenant == tenant,
            artifacts.c.expire_time > now,
            artifacts.c.sha256.in_(list(sha256)),
            blobs.c.damage_time.is_(None),
        )
    )
    return {row.sha256: row.id for row in connection.execute(statement)}


def update_artifact(
    connection: Connection,
    id: str,  # noqa: A002
    change: Callable[[Artifact], Artifact],
) -> Artifact:
    locked = _ARTIFACTS.where(artifacts.c.id == id).with_for_update(of=artifacts)
    row = connection.execute(locked).mappings().first()
    if row is None:
        raise NotFound(f"artifacts/{id}")
    artifact = change(artifact_from_row(row))
    connection.execute(update(artifacts).where(artifacts.c.id == id).values(artifact_values(artifact)))
    return artifact


def delete_artifacts(
    connection: Connection, ids: Iterable[str], check: Callable[[Artifact], None], now: datetime
) -> None:
    ids = list(dict.fromkeys(ids))
    selected = _ARTIFACTS.where(artifacts.c.id.in_(ids)).order_by(artifacts.c.id)
    locked = selected.with_for_update(of=artifacts)
    found = {row["id"]: artifact_from_row(row) for row in connection.execute(locked).mappings()}
    for id_ in ids:
        if id_ not in found:
            raise NotFound(f"artifacts/{id_}")
        check(found[id_])
    _delete(connection, ids, {artifact.key for artifact in found.values()}, now)


def find_crc32s(connection: Connection, keys: Iterable[str]) -> dict[str, int]:
    known = select(blobs.c.key, blobs.c.crc32).where(blobs.c.key.in_(list(keys)), blobs.c.crc32.is_not(None))
    return {row.key: row.crc32 for row in connection.execute(known)}


def set_crc32(connection: Connection, key: str, content: Digests, crc32: int) -> None:
    connection.execute(update(blobs).where(*has_content(key, content)).values(crc32=crc32))


def delete_expired_artifacts(connection: Connection, now: datetime, limit: int) -> int:
    statement = select(artifacts.c.id, artifacts.c.key).where(artifacts.c.expire_time <= now).limit(limit)
    expired = {row.id: row.key for row in connection.execute(statement.with_for_update(skip_locked=True))}
    _delete(connection, list(expired), set(expired.values()), now)
    return len(expired)


def doom_unused_blobs(connection: Connection, before: datetime, now: datetime, limit: int) -> None:
    statement = select(blobs.c.key).where(blobs.c.create_time < before, *_unused(now)).limit(limit)
    _doom(connection, connection.execute(statement).scalars(), now)


def list_doomed_keys(connection: Connection, before: datetime, limit: int) -> list[str]:
    keys = select(doomed.c.key).where(doomed.c.doom_time <= before).order_by(doomed.c.doom_time).limit(limit)
    return list(connection.execute(keys).scalars())


def delete_doomed_keys(connection: Connection, keys: Iterable[str]) -> None:
    connection.execute(delete(doomed).where(doomed.c.key.in_(list(keys))))


def find_known_keys(connection: Connection, keys: Iterable[str]) -> set[str]:
    keys = list(keys)
    live_keys = select(blobs.c.key).where(blobs.c.key.in_(keys))
    doomed_keys = select(doomed.c.key).where(doomed.c.key.in_(keys))
    return set(connection.execute(live_keys.union(doomed_keys)).scalars())


def _is_selective(where: Node) -> bool:
    """Return whether *where* names the jobs whose artifacts match: an index finds these few."""
    match where:
        case And(nodes):
            return any(map(_is_selective, nodes))
        case Or(nodes):
            return all(map(_is_selective, nodes))
        case Term(field="job", operator=Operator.EQUAL, value=Pattern(text=job)):
            # Those of no job may be many.
            return job != ""
        case _:
            return False


def _conditions(tenant: str | None, where: Node | None) -> list[ColumnElement[bool]]:
    conditions = [] if tenant is None else [artifacts.c.tenant == tenant]
    return conditions if where is None else [*conditions, condition(where, _FILTER_COLUMNS)]


def _delete(connection: Connection, ids: list[str], keys: set[str], now: datetime) -> None:
    connection.execute(delete(artifacts).where(artifacts.c.id.in_(ids)))
    _doom(connection, keys, now)


def _doom(connection: Connection, keys: Iterable[str], now: datetime) -> None:
    # Every transaction locks in the same order, or two of them could deadlock.
    for key in sorted(keys):
        # Lock before checking, so that a claim made in the meantime is visible.
        connection.execute(select(blobs.c.key).where(blobs.c.key == key).with_for_update())
        unused = delete(blobs).where(blobs.c.key == key, *_unused(now)).returning(blobs.c.size)
        size = connection.execute(unused).scalar()
        if size is not None:
            connection.execute(insert(doomed).values(key=key, doom_time=now))
            after_commit(connection, partial(DELETED_BYTES.inc, size))


def _unused(now: datetime) -> tuple[Any, Any]:
    """Return the conditions that no artifact references a blob and no valid claim holds it."""
    claimed = and_(uploads.c.claimed_key == blobs.c.key, uploads.c.claimed_until > now)
    return ~exists().where(artifacts.c.key == blobs.c.key), ~exists().where(claimed)
