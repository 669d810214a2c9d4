"""Uploads in SQL, and how they become artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Table, delete, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_storage.catalog.rows import artifact_from_row, artifact_values, upload_from_row, upload_values
from reelhaul_storage.catalog.tables import UtcMicroseconds, artifacts, blobs, uploads
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Artifact, Upload

_JOINED = uploads.outerjoin(blobs, blobs.c.key == uploads.c.claimed_key)
_COLUMNS = [*uploads.c, blobs.c.key, blobs.c.sha256, blobs.c.size, blobs.c.crc32c]


def add(connection: Connection, upload: Upload) -> Upload:
    """As Catalogue.add_upload."""
    made = _insert_if_new(connection, uploads, upload_values(upload), ["tenant", "request_id"])
    return upload if made else _by_request(connection, upload)


def read(connection: Connection, id: str) -> Upload:  # noqa: A002
    """As Catalogue.upload."""
    row = connection.execute(_select().where(uploads.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"uploads/{id}")
    return upload_from_row(row)


def page(
    connection: Connection, tenant: str | None, after: tuple[datetime, str] | None, limit: int
) -> list[Upload]:
    """As Catalogue.uploads."""
    asked = _select().where(uploads.c.artifact == "")
    if tenant is not None:
        asked = asked.where(uploads.c.tenant == tenant)
    order = tuple_(uploads.c.create_time, uploads.c.id)
    if after is not None:
        asked = asked.where(order > tuple_(*after, types=[UtcMicroseconds, uploads.c.id.type]))
    asked = asked.order_by(uploads.c.create_time, uploads.c.id).limit(limit)
    return [upload_from_row(row) for row in connection.execute(asked).mappings()]


def keep(connection: Connection, id: str, until: datetime) -> None:  # noqa: A002
    """As Catalogue.keep_upload."""
    connection.execute(update(uploads).where(uploads.c.id == id).values(expire_time=until))


def remove(connection: Connection, ids: Iterable[str]) -> None:
    """As Catalogue.remove_uploads."""
    connection.execute(delete(uploads).where(uploads.c.id.in_(list(ids))))


def claim(
    connection: Connection, upload: str, content: Digests, key: str, now: datetime, until: datetime
) -> str:
    """As Catalogue.claim."""
    _lock(connection, upload)
    blob = {"key": key, "size": content.size, "sha256": content.sha256, "crc32c": content.crc32c}
    taken: str | None = None
    while taken is None:
        # None where it was doomed between the two statements.
        _insert_if_new(connection, blobs, blob | {"create_time": now}, ["sha256"])
        # Locked: whoever would doom it waits, and then sees the claim.
        present = select(blobs.c.key).where(blobs.c.sha256 == content.sha256).with_for_update()
        taken = connection.execute(present).scalar()
    values = {"claimed_key": taken, "claimed_until": until}
    connection.execute(update(uploads).where(uploads.c.id == upload).values(values))
    return taken


def finish(connection: Connection, upload: str, artifact: Artifact) -> Artifact:
    """As Catalogue.finish."""
    before = _lock(connection, upload)["artifact"]
    if before:
        return _artifact(connection, before)
    resting = select(blobs.c.key).where(blobs.c.key == artifact.key).with_for_update()
    if connection.execute(resting).first() is None:
        raise BackendUnavailable("local", "the bytes were swept before they were finished; write them again")
    connection.execute(insert(artifacts).values(artifact_values(artifact)))
    done = {"artifact": artifact.id, "claimed_key": "", "claimed_until": None}
    connection.execute(update(uploads).where(uploads.c.id == upload).values(done))
    return artifact


def finish_known(
    connection: Connection, upload: str, sha256: str, make: Callable[[Digests, str], Artifact]
) -> Artifact | None:
    """As Catalogue.finish_known."""
    row = _lock(connection, upload)
    if row["artifact"]:
        return _artifact(connection, row["artifact"])
    own = artifacts.c.tenant == row["tenant"], artifacts.c.sha256 == sha256
    known = select(blobs).join(artifacts, artifacts.c.key == blobs.c.key).where(*own).limit(1)
    blob = connection.execute(known.with_for_update(of=blobs)).mappings().first()
    if blob is None:
        return None
    content = Digests(blob["size"], blob["sha256"], blob["crc32c"])
    return finish(connection, upload, make(content, blob["key"]))


def expired(connection: Connection, now: datetime, limit: int) -> list[str]:
    """As Catalogue.expired_uploads."""
    asked = select(uploads.c.id).where(uploads.c.expire_time <= now).limit(limit)
    return list(connection.execute(asked).scalars())


def unfinished(connection: Connection, ids: Iterable[str]) -> set[str]:
    """As Catalogue.known_uploads."""
    asked = select(uploads.c.id).where(uploads.c.id.in_(list(ids)), uploads.c.artifact == "")
    return set(connection.execute(asked).scalars())


def _select() -> Select[Any]:
    return select(*_COLUMNS).select_from(_JOINED)


def _lock(connection: Connection, id: str) -> Any:  # noqa: A002
    row = connection.execute(select(uploads).where(uploads.c.id == id).with_for_update()).mappings().first()
    if row is None:
        raise NotFound(f"uploads/{id}")
    return row


def _by_request(connection: Connection, upload: Upload) -> Upload:
    same = uploads.c.tenant == upload.draft.tenant, uploads.c.request_id == upload.request_id
    row = connection.execute(_select().where(*same)).mappings().one()
    if row["request_digest"] != upload.request_digest:
        raise ReelhaulError(
            ErrorReason.REQUEST_ID_REUSED,
            "the request_id was used with another request",
            metadata={"requestId": upload.request_id},
        )
    return upload_from_row(row)


def _artifact(connection: Connection, id: str) -> Artifact:  # noqa: A002
    row = connection.execute(select(artifacts).where(artifacts.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"artifacts/{id}")
    return artifact_from_row(row)


def _insert_if_new(connection: Connection, table: Table, values: dict[str, Any], unique: list[str]) -> bool:
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    made = upsert(table).values(values).on_conflict_do_nothing(index_elements=unique)
    # Not rowcount: psycopg's is not to be had for an INSERT.
    return connection.execute(made.returning(*table.primary_key)).first() is not None
