"""Tables of the catalog."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    text,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcMicroseconds(TypeDecorator[datetime]):
    """A UTC time stored as microseconds since 1970: exact, and ordered on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Contents that artifacts reference. A row is inserted before its bytes exist and deleted before them.
blobs = Table(
    "blobs",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    # The CRC-32 of zip archives, once one was written with the blob.
    Column("crc32", BigInteger),
    Column("create_time", UtcMicroseconds, nullable=False),
    # When all bytes were last read and intact, and when they were found damaged. NULL: never.
    Column("verify_time", UtcMicroseconds),
    Column("damage_time", UtcMicroseconds),
    # When a scrubber last began to read it. NULL: never.
    Column("scrub_time", UtcMicroseconds),
    Index("ix_blobs_verify_time", "verify_time", "key"),
    Index(
        "ix_blobs_damage_time",
        "damage_time",
        sqlite_where=text("damage_time IS NOT NULL"),
        postgresql_where=text("damage_time IS NOT NULL"),
    ),
)

#: Keys without references, whose bytes may still exist.
doomed = Table(
    "doomed",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("doom_time", UtcMicroseconds, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key", String(128), ForeignKey("blobs.key"), nullable=False, index=True),
    Column("file_name", String(200), nullable=False),
    Column("media_type", String(127), nullable=False),
    # Copied from the blob: lists order by size, and lookups by digest need no join.
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("crc32c", BigInteger, nullable=False),
    Column("job", String(128), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("language_code", String(35), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("create_time", UtcMicroseconds, nullable=False),
    Column("update_time", UtcMicroseconds, nullable=False),
    Column("expire_time", UtcMicroseconds, nullable=False, index=True),
    Column("verify_time", UtcMicroseconds),
    Column("revision", Integer, nullable=False),
    Column("link_generation", Integer, nullable=False, server_default="0"),
    Index(None, "tenant", "create_time", "id"),
    Index(None, "tenant", "expire_time", "id"),
    Index(None, "tenant", "size", "id"),
    Index(None, "tenant", "sha256"),
    # Also for lists without a tenant.
    Index(None, "job", "tenant", "create_time", "id"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("draft", JSON, nullable=False),
    Column("total_size", BigInteger, nullable=False),
    # Bytes of disk space that the upload needed when it was created.
    Column("reserved_size", BigInteger, nullable=False, server_default="0"),
    Column("expected_sha256", String(64), nullable=False),
    Column("direct", Boolean, nullable=False),
    Column("create_time", UtcMicroseconds, nullable=False),
    Column("expire_time", UtcMicroseconds, nullable=False, index=True),
    # NULL if there is none: the unique index admits many NULLs, but only one empty string.
    Column("request_id", String(36)),
    Column("request_digest", String(64), nullable=False),
    # The blob that the upload is being finished with, and until when it must not be doomed.
    Column("claimed_key", String(128), nullable=False, index=True),
    Column("claimed_until", UtcMicroseconds),
    Column("artifact", String(36), nullable=False),
    Index(None, "create_time", "id"),
    Index("uq_uploads_tenant_request_id", "tenant", "request_id", unique=True),
    # For the limit of a tenant's unfinished uploads.
    Index(
        "ix_uploads_unfinished",
        "tenant",
        sqlite_where=text("artifact = ''"),
        postgresql_where=text("artifact = ''"),
    ),
)

destinations = Table(
    "destinations",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("display_name", String(100), nullable=False),
    Column("bucket", String(63), nullable=False),
    Column("prefix", String(500), nullable=False),
    Column("endpoint_url", String(300), nullable=False),
    Column("region", String(32), nullable=False),
    Column("path_style", Boolean, nullable=False),
    Column("server_side_encryption", String(16), nullable=False),
    Column("access_key_id", String(128), nullable=False),
    # Encrypted; empty if there is a role.
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("role_arn", String(200), nullable=False),
    Column("external_id", String(64), nullable=False),
    Column("create_time", UtcMicroseconds, nullable=False),
    Column("update_time", UtcMicroseconds, nullable=False),
    Column("revision", Integer, nullable=False),
)

#: One row, with id 1: where the blobs are. Its generation grows with every change.
blob_location = Table(
    "blob_location",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", Integer, nullable=False),
    # Empty: where REELHAUL_STORAGE_URL says.
    Column("url", String(2000), nullable=False),
    # Where blobs may still be while they are moved; empty: nowhere else.
    Column("previous_url", String(2000), nullable=False),
)
