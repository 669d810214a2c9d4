"""SQL of uploads: from the request to the finished artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Table,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import NotFound, QuotaExceeded, ReelhaulError
from reelhaul_storage.catalog.artifacts import get_artifact
from reelhaul_storage.catalog.blob_location import check_generation
from reelhaul_storage.catalog.rows import artifact_values, upload_from_row, upload_values
from reelhaul_storage.catalog.tables import UtcMicroseconds, artifacts, blobs, doomed, uploads
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable, InsufficientSpace, OffsetConflict
from reelhaul_storage.model import MAX_UPLOADS_PER_TENANT, Artifact, DiskSpace, Upload


def add_upload(connection: Connection, upload: Upload, space: DiskSpace | None) -> Upload:
    inserted = _insert_if_new(connection, uploads, upload_values(upload), ["tenant", "request_id"])
    if not inserted:
        return _get_by_request_id(connection, upload)
    above_limit = (
        select(uploads.c.id)
        .where(text("uploads.artifact = ''"), uploads.c.tenant == upload.draft.tenant)
        .limit(1)
        .offset(MAX_UPLOADS_PER_TENANT)
    )
    if connection.execute(above_limit).first() is not None:
        # The savepoint of this write undoes the insert.
        message = f"a tenant has at most {MAX_UPLOADS_PER_TENANT} unfinished uploads"
        subject = f"tenants/{upload.draft.tenant}"
        raise QuotaExceeded("unfinished_uploads", message, subject=subject, limit=MAX_UPLOADS_PER_TENANT)
    if space is not None:
        reserved = select(func.sum(uploads.c.reserved_size)).where(text("uploads.artifact = ''"))
        by_others = int(connection.execute(reserved).scalar_one()) - upload.reserved_size
        left = max(0, space.available - by_others)
        if upload.reserved_size > left:
            raise InsufficientSpace("local", left, upload.reserved_size)
    return upload


def get_upload(connection: Connection, id: str) -> Upload:  # noqa: A002
    row = connection.execute(_select_uploads().where(uploads.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"uploads/{id}")
    return upload_from_row(row)


def list_uploads(
    connection: Connection, tenant: str | None, after: tuple[datetime, str] | None, limit: int
) -> list[Upload]:
    statement = _select_uploads().where(uploads.c.artifact == "")
    if tenant is not None:
        statement = statement.where(uploads.c.tenant == tenant)
    if after is not None:
        cursor = tuple_(*after, types=[UtcMicroseconds, uploads.c.id.type])
        statement = statement.where(tuple_(uploads.c.create_time, uploads.c.id) > cursor)
    statement = statement.order_by(uploads.c.create_time, uploads.c.id).limit(limit)
    return [upload_from_row(row) for row in connection.execute(statement).mappings()]


def extend_upload(connection: Connection, id: str, until: datetime) -> None:  # noqa: A002
    connection.execute(update(uploads).where(uploads.c.id == id).values(expire_time=until))


def delete_uploads(connection: Connection, ids: Iterable[str]) -> None:
    connection.execute(delete(uploads).where(uploads.c.id.in_(list(ids))))


def claim_blob(
    connection: Connection, upload: str, content: Digests, key: str, now: datetime, until: datetime
) -> str:
    _doom_unverified(connection, upload, content, now)
    claimed_key = _find_or_insert_blob(connection, upload, content, key, now)
    values = {"claimed_key": claimed_key, "claimed_until": until}
    connection.execute(update(uploads).where(uploads.c.id == upload).values(values))
    return claimed_key


def claim_new_blob(
    connection: Connection, upload: str, content: Digests, key: str, now: datetime, until: datetime
) -> bool:
    used = or_(
        exists().where(artifacts.c.key == key),
        exists().where(uploads.c.claimed_key == key, uploads.c.id != upload),
    )
    if _find_or_insert_blob(connection, upload, content, key, now) != key:
        return False
    if connection.execute(select(blobs.c.key).where(blobs.c.key == key, used)).first() is not None:
        return False
    values = {"claimed_key": key, "claimed_until": until}
    connection.execute(update(uploads).where(uploads.c.id == upload).values(values))
    return True


def finish_upload(connection: Connection, upload: str, artifact: Artifact, generation: int) -> Artifact:
    finished_as = _lock(connection, upload)["artifact"]
    if finished_as:
        return get_artifact(connection, finished_as)
    check_generation(connection, generation)
    _insert_artifact(connection, upload, artifact)
    state: dict[str, Any] = {"damage_time": None}
    if artifact.verify_time is not None:
        # Until now, these may be what another client stated, and the CRC-32 that of its bytes.
        content = artifact.content
        state |= {"verify_time": artifact.verify_time, "size": content.size, "crc32c": content.crc32c}
        state["crc32"] = case((blobs.c.verify_time.is_(None), None), else_=blobs.c.crc32)
    connection.execute(update(blobs).where(blobs.c.key == artifact.key).values(state))
    return artifact


def finish_from_stored(
    connection: Connection,
    upload: str,
    sha256: str,
    make: Callable[[Digests, str], Artifact],
    generation: int,
) -> Artifact | None:
    row = _lock(connection, upload)
    if row["artifact"]:
        return get_artifact(connection, row["artifact"])
    check_generation(connection, generation)
    stored = (
        select(blobs)
        .join(artifacts, artifacts.c.key == blobs.c.key)
        .where(
            artifacts.c.tenant == row["tenant"],
            artifacts.c.sha256 == sha256,
            blobs.c.damage_time.is_(None),
        )
        .limit(1)
        .with_for_update(of=blobs)
    )
    blob = connection.execute(stored).mappings().first()
    if blob is None:
        return None
    content = Digests(blob["size"], blob["sha256"], blob["crc32c"])
    artifact = make(content, blob["key"])
    _insert_artifact(connection, upload, artifact)
    return artifact


def list_expired_uploads(connection: Connection, now: datetime, limit: int) -> list[str]:
    statement = select(uploads.c.id).where(uploads.c.expire_time <= now).limit(limit)
    return list(connection.execute(statement).scalars())


def find_unfinished_uploads(connection: Connection, ids: Iterable[str]) -> set[str]:
    statement = select(uploads.c.id).where(uploads.c.id.in_(list(ids)), uploads.c.artifact == "")
    return set(connection.execute(statement).scalars())


def _find_or_insert_blob(
    connection: Connection, upload: str, content: Digests, key: str, now: datetime
) -> str:
    """Lock *upload* and the blob with *content*, inserted as *key* if there is none; return its key."""
    if _lock(connection, upload)["claimed_key"] == key and not _has_content(connection, key, content):
        raise OffsetConflict("these bytes were claimed before and given up: write them again", 0)
    blob = {"key": key, "size": content.size, "sha256": content.sha256, "crc32c": content.crc32c}
    claimed_key: str | None = None
    # The select finds nothing if the blob is doomed between the two statements: then insert again.
    while claimed_key is None:
        _insert_if_new(connection, blobs, blob | {"create_time": now}, ["sha256"])
        # Locked: a transaction that wants to doom the blob waits, and then sees the claim.
        present = select(blobs.c.key).where(blobs.c.sha256 == content.sha256).with_for_update()
        claimed_key = connection.execute(present).scalar()
    return claimed_key


def _doom_unverified(connection: Connection, upload: str, content: Digests, now: datetime) -> None:
    """Doom the blob with *content* if nobody but direct uploads of others has claimed it so far.

    Their clients state the digest, and can still replace the bytes under its key.
    """
    _lock(connection, upload)
    unverified = (blobs.c.sha256 == content.sha256, blobs.c.verify_time.is_(None))
    key = connection.execute(select(blobs.c.key).where(*unverified).with_for_update()).scalar()
    verified_claim = or_(uploads.c.id == upload, uploads.c.direct.is_(False))
    used = or_(
        exists().where(artifacts.c.key == key),
        exists().where(uploads.c.claimed_key == key, verified_claim),
    )
    if key is not None and connection.execute(delete(blobs).where(blobs.c.key == key, ~used)).rowcount:
        connection.execute(insert(doomed).values(key=key, doom_time=now))


def _has_content(connection: Connection, key: str, content: Digests) -> bool:
    blob = select(blobs.c.key).where(blobs.c.key == key, blobs.c.sha256 == content.sha256).with_for_update()
    return connection.execute(blob).first() is not None


def _insert_artifact(connection: Connection, upload: str, artifact: Artifact) -> None:
    blob = select(blobs.c.key).where(blobs.c.key == artifact.key).with_for_update()
    if connection.execute(blob).first() is None:
        raise BackendUnavailable("", "the bytes were deleted before the finish; write them again")
    connection.execute(insert(artifacts).values(artifact_values(artifact)))
    values = {"artifact": artifact.id, "claimed_key": "", "claimed_until": None}
    connection.execute(update(uploads).where(uploads.c.id == upload).values(values))


def _select_uploads() -> Select[Any]:
    """Select uploads joined with their claimed blobs, as ``upload_from_row`` expects."""
    joined = uploads.outerjoin(blobs, blobs.c.key == uploads.c.claimed_key)
    blob = (blobs.c.key, blobs.c.sha256, blobs.c.size, blobs.c.crc32c, blobs.c.damage_time)
    return select(*uploads.c, *blob).select_from(joined)


def _lock(connection: Connection, id: str) -> Any:  # noqa: A002
    row = connection.execute(select(uploads).where(uploads.c.id == id).with_for_update()).mappings().first()
    if row is None:
        raise NotFound(f"uploads/{id}")
    return row


def _get_by_request_id(connection: Connection, upload: Upload) -> Upload:
    statement = _select_uploads().where(
        uploads.c.tenant == upload.draft.tenant, uploads.c.request_id == upload.request_id
    )
    row = connection.execute(statement).mappings().one()
    if row["request_digest"] != upload.request_digest:
        raise ReelhaulError(
            ErrorReason.REQUEST_ID_REUSED,
            "the request_id was used with another request",
            metadata={"requestId": upload.request_id},
        )
    return upload_from_row(row)


def _insert_if_new(connection: Connection, table: Table, values: dict[str, Any], unique: list[str]) -> bool:
    """Insert *values* unless a row with the same *unique* columns exists; return whether inserted."""
    dialect_insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = dialect_insert(table).values(values).on_conflict_do_nothing(index_elements=unique)
    # RETURNING, because psycopg reports no rowcount for an INSERT.
    return connection.execute(statement.returning(*table.primary_key)).first() is not None
