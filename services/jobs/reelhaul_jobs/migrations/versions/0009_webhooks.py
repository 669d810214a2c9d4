"""Create the tables of webhooks, of their events, and of deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_IS_ENABLED = sa.text("state = 1")
_TABLES = ("webhook_deliveries", "webhook_events", "webhook_sequences", "webhook_outbox", "webhooks")


def upgrade() -> None:
    """Create the tables."""
    _create_webhooks()
    op.create_table(
        "webhook_outbox",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("batch_id", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
    )
    op.create_index("webhook_outbox_by_tenant", "webhook_outbox", ["tenant"])
    op.create_table(
        "webhook_sequences",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    op.create_index("webhook_events_by_age", "webhook_events", ["create_time"])
    op.create_index("webhook_events_by_tenant", "webhook_events", ["tenant"])
    _create_deliveries()


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("event_types", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
        sa.Column("sealed_old_secret", sa.LargeBinary, nullable=False),
        sa.Column("old_secret_end", sa.BigInteger),
        sa.Column("failing_since", sa.BigInteger),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    _create_partial_index("webhooks_enabled", "webhooks", ["tenant", "id"])


def _create_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("webhook", sa.String(63), nullable=False),
        sa.Column(
            "event", sa.String(36), sa.ForeignKey("webhook_events.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("http_status", sa.Integer, nullable=False),
        sa.Column("error", sa.LargeBinary),
        sa.Column("due", sa.BigInteger),
        sa.Column("sender", sa.String(64), nullable=False),
        sa.Column("hold_end", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["tenant", "webhook"], ["webhooks.tenant", "webhooks.id"], ondelete="CASCADE"
        ),
    )
    columns = ["tenant", "webhook", "time", "id"]
    op.create_index("webhook_deliveries_listed", "webhook_deliveries", columns)
    op.create_index("webhook_deliveries_by_event", "webhook_deliveries", ["event"])
    _create_partial_index("webhook_deliveries_due", "webhook_deliveries", ["tenant", "webhook", "due"])
    columns = ["tenant", "webhook", "subject", "sequence"]
    _create_partial_index("webhook_deliveries_held", "webhook_deliveries", columns)


def _create_partial_index(name: str, table: str, columns: list[str]) -> None:
    op.create_index(name, table, columns, sqlite_where=_IS_ENABLED, postgresql_where=_IS_ENABLED)
