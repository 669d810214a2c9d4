"""Create the quota ledger, and store the key of jobs and schedules and what jobs reserve and store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_READY = sa.text("lane = 2")
_IN_FLIGHT = sa.text("lane IN (1, 3, 4)")
# With the key, so that jobs of a key are counted and skipped by reading the index only.
_INDEXES = {
    "jobs_ready": (["tenant", "site", "due", "id"], _READY),
    "jobs_due": (["lane", "due", "tenant", "site"], _IN_FLIGHT),
}


def upgrade() -> None:
    """Add the table and the columns; existing jobs are of no key and do not count."""
    op.create_table(
        "quota_ledger",
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("released", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", "day"),
        sqlite_with_rowid=False,
    )
    op.add_column("jobs", sa.Column("api_key", sa.String(36), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("quota_day", sa.Integer()))
    op.add_column("jobs", sa.Column("reserved_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("schedules", sa.Column("api_key", sa.String(36), nullable=False, server_default=""))
    for name, (columns, where) in _INDEXES.items():
        _replace_index(name, [*columns, "api_key"], where)


def downgrade() -> None:
    """Drop the table and the columns."""
    for name, (columns, where) in _INDEXES.items():
        _replace_index(name, columns, where)
    op.drop_column("schedules", "api_key")
    for column in ("stored_bytes", "reserved_bytes", "quota_day", "api_key"):
        op.drop_column("jobs", column)
    op.drop_table("quota_ledger")


def _replace_index(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.drop_index(name, "jobs")
    op.create_index(name, "jobs", columns, unique=False, sqlite_where=where, postgresql_where=where)
