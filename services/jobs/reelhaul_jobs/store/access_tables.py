"""The tables of tenants, API keys, tickets and the audit log. Times are microseconds since 1970 in UTC."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

from reelhaul_jobs.store.tables import metadata

#: The level FULL_ACCESS as rows hold it.
FULL_ACCESS = 40

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("display_name", String(100), nullable=False),
    Column("contact", String(254), nullable=False),
    # A serialized admin.v1.Quota.
    Column("quota", LargeBinary, nullable=False),
    # JSON arrays of strings.
    Column("allowed_sites", Text, nullable=False),
    Column("denied_sites", Text, nullable=False),
    # Microseconds; null: as long as the server allows.
    Column("retention", BigInteger),
    Column("disabled", Boolean, nullable=False),
    # Set while the tenant is being deleted.
    Column("delete_time", BigInteger),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
)
Index(
    "tenants_deleting",
    tenants.c.delete_time,
    sqlite_where=text("delete_time IS NOT NULL"),
    postgresql_where=text("delete_time IS NOT NULL"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
    Column("display_name", String(100), nullable=False),
    # A PermissionLevel.
    Column("permission", SmallInteger, nullable=False),
    # JSON array of numbers of Grant.
    Column("grants", Text, nullable=False),
    # A serialized admin.v1.Quota.
    Column("quota", LargeBinary, nullable=False),
    # JSON arrays of strings.
    Column("allowed_cidrs", Text, nullable=False),
    Column("allowed_sites", Text, nullable=False),
    Column("denied_sites", Text, nullable=False),
    # SHA-256 of the key string, and its first 12 characters.
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("key_prefix", String(12), nullable=False),
    # SHA-256 of the key string before the last rotation, which works until then.
    Column("previous_hash", LargeBinary, unique=True),
    Column("previous_expire_time", BigInteger),
    Column("disabled", Boolean, nullable=False),
    Column("expire_time", BigInteger),
    Column("delete_time", BigInteger),
    # To the minute.
    Column("last_use_time", BigInteger),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
)
Index("api_keys_by_time", api_keys.c.create_time, api_keys.c.id)
Index("api_keys_by_tenant", api_keys.c.tenant, api_keys.c.create_time, api_keys.c.id)
Index(
    "api_keys_deleted",
    api_keys.c.delete_time,
    sqlite_where=text("delete_time IS NOT NULL"),
    postgresql_where=text("delete_time IS NOT NULL"),
)
# For the rule that one of them always works.
Index(
    "api_keys_full_access",
    api_keys.c.id,
    sqlite_where=text(f"permission = {FULL_ACCESS}"),
    postgresql_where=text(f"permission = {FULL_ACCESS}"),
)

# Credentials for one WebSocket each.
tickets = Table(
    "tickets",
    metadata,
    # SHA-256 of the ticket.
    Column("hash", LargeBinary, primary_key=True),
    # Id of the key that created it; empty for a caller without one.
    Column("key", String(36), nullable=False),
    # Of a caller without a key: its tenant, and a serialized admin.v1.ApiKey of what it may do.
    Column("tenant", String(64), nullable=False),
    Column("grantee", LargeBinary),
    Column("expire_time", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index("tickets_by_time", tickets.c.expire_time)

# Never changed, and not deleted within a day: triggers refuse it.
audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("create_time", BigInteger, nullable=False),
    Column("principal", String(300), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("method", String(128), nullable=False),
    Column("resource", String(300), nullable=False),
    Column("address", String(64), nullable=False),
    Column("status_code", SmallInteger, nullable=False),
    # A serialized google.rpc.Status.
    Column("status", LargeBinary, nullable=False),
    # JSON array of strings.
    Column("changed_paths", Text, nullable=False),
    Column("call_id", String(128), nullable=False),
)
Index("audit_entries_by_time", audit_entries.c.create_time, audit_entries.c.id)
Index("audit_entries_by_tenant", audit_entries.c.tenant, audit_entries.c.create_time, audit_entries.c.id)
Index("audit_entries_by_resource", audit_entries.c.resource, audit_entries.c.create_time, audit_entries.c.id)
