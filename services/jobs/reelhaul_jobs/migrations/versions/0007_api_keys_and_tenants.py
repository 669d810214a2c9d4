"""Create the tables of tenants, API keys and tickets, with the tenant that owns the existing rows."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_DELETED = sa.text("delete_time IS NOT NULL")
_FULL_ACCESS = sa.text("permission = 40")


def upgrade() -> None:
    """Create the tables, and the tenant that all callers are while REELHAUL_AUTH=none."""
    _create_tenants()
    _create_api_keys()
    op.create_table(
        "tickets",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("key", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("grantee", sa.LargeBinary()),
        sa.Column("expire_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        sqlite_with_rowid=False,
    )
    op.create_index("tickets_by_time", "tickets", ["expire_time"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("tickets")
    op.drop_table("api_keys")
    op.drop_table("tenants")


def _create_tenants() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("contact", sa.String(254), nullable=False),
        sa.Column("quota", sa.LargeBinary(), nullable=False),
        sa.Column("allowed_sites", sa.Text(), nullable=False),
        sa.Column("denied_sites", sa.Text(), nullable=False),
        sa.Column("retention", sa.BigInteger()),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("delete_time", sa.BigInteger()),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "tenants_deleting", "tenants", ["delete_time"], sqlite_where=_DELETED, postgresql_where=_DELETED
    )
    now = time.time_ns() // 1000
    local = {
        "id": "local",
        "display_name": "",
        "contact": "",
        "quota": b"",
        "allowed_sites": "[]",
        "denied_sites": "[]",
        "retention": None,
        "disabled": False,
        "delete_time": None,
        "revision": 1,
        "create_time": now,
        "update_time": now,
    }
    op.bulk_insert(tenants, [local])


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("permission", sa.SmallInteger(), nullable=False),
        sa.Column("grants", sa.Text(), nullable=False),
        sa.Column("quota", sa.LargeBinary(), nullable=False),
        sa.Column("allowed_cidrs", sa.Text(), nullable=False),
        sa.Column("allowed_sites", sa.Text(), nullable=False),
        sa.Column("denied_sites", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_prefix", sa.String(12), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary()),
        sa.Column("previous_expire_time", sa.BigInteger()),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("expire_time", sa.BigInteger()),
        sa.Column("delete_time", sa.BigInteger()),
        sa.Column("last_use_time", sa.BigInteger()),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("hash"),
        sa.UniqueConstraint("previous_hash"),
    )
    op.create_index("api_keys_by_time", "api_keys", ["create_time", "id"])
    op.create_index("api_keys_by_tenant", "api_keys", ["tenant", "create_time", "id"])
    op.create_index(
        "api_keys_deleted", "api_keys", ["delete_time"], sqlite_where=_DELETED, postgresql_where=_DELETED
    )
    op.create_index(
        "api_keys_full_access",
        "api_keys",
        ["id"],
        sqlite_where=_FULL_ACCESS,
        postgresql_where=_FULL_ACCESS,
    )
