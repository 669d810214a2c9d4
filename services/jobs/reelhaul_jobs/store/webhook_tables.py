"""The tables of webhooks, of their events, and of deliveries."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

from reelhaul_jobs.store.tables import metadata

webhooks = Table(
    "webhooks",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("url", Text, nullable=False),
    # JSON array.
    Column("event_types", Text, nullable=False),
    Column("filter", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("sealed_old_secret", LargeBinary, nullable=False),
    Column("old_secret_end", BigInteger),
    Column("failing_since", BigInteger),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
#: As text, so that both databases see that the partial indexes fit; 1 is ENABLED and PENDING.
IS_ENABLED, IS_PENDING = text("webhooks.state = 1"), text("webhook_deliveries.state = 1")


def _partial(name: str, *columns: Column[Any], only: str) -> None:
    Index(name, *columns, sqlite_where=text(only), postgresql_where=text(only))


# For the outbox: which tenants have one.
_partial("webhooks_enabled", webhooks.c.tenant, webhooks.c.id, only="state = 1")

# Changes of jobs and schedules of tenants with webhooks, written in the transaction of the change.
webhook_outbox = Table(
    "webhook_outbox",
    metadata,
    # Changes of one job have ascending ids: their transactions hold the lock of its row.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("time", BigInteger, nullable=False),
    # Of a job that ended; else empty.
    Column("batch_id", String(64), nullable=False),
    # The row of the subject after the change, as JSON.
    Column("subject", Text, nullable=False),
)
Index("webhook_outbox_by_tenant", webhook_outbox.c.tenant)

# The sequence number of each tenant's last event.
webhook_sequences = Table(
    "webhook_sequences",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("last", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("subject", String(128), nullable=False),
    # A serialized jobs.v1.Event.Data.
    Column("data", LargeBinary, nullable=False),
    # When it was recorded, for the retention.
    Column("create_time", BigInteger, nullable=False),
)
Index("webhook_events_by_age", webhook_events.c.create_time)
Index("webhook_events_by_tenant", webhook_events.c.tenant)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("webhook", String(63), nullable=False),
    Column("event", String(36), ForeignKey("webhook_events.id", ondelete="CASCADE"), nullable=False),
    # Of the event.
    Column("subject", String(128), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("error", LargeBinary),
    Column("due", BigInteger),
    # The replica that sends it; empty if none does.
    Column("sender", String(64), nullable=False),
    Column("hold_end", BigInteger),
    ForeignKeyConstraint(["tenant", "webhook"], ["webhooks.tenant", "webhooks.id"], ondelete="CASCADE"),
)
Index(
    "webhook_deliveries_listed",
    webhook_deliveries.c.tenant,
    webhook_deliveries.c.webhook,
    webhook_deliveries.c.time,
    webhook_deliveries.c.id,
)
Index("webhook_deliveries_by_event", webhook_deliveries.c.event)
_partial(
    "webhook_deliveries_due",
    webhook_deliveries.c.tenant,
    webhook_deliveries.c.webhook,
    webhook_deliveries.c.due,
    only="state = 1",
)
_partial(
    "webhook_deliveries_held",
    webhook_deliveries.c.tenant,
    webhook_deliveries.c.webhook,
    webhook_deliveries.c.subject,
    webhook_deliveries.c.sequence,
    only="state = 1",
)
