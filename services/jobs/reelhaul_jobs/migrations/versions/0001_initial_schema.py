"""Create the tables of jobs, attempts, events, schedules, workers and loop leaders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("format", sa.LargeBinary(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("schedule_time", sa.BigInteger(), nullable=True),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("min_backoff", sa.BigInteger(), nullable=False),
        sa.Column("max_backoff", sa.BigInteger(), nullable=False),
        sa.Column("attempt_deadline", sa.BigInteger(), nullable=False),
        sa.Column("ttl", sa.BigInteger(), nullable=False),
        sa.Column("expire_time", sa.BigInteger(), nullable=True),
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("traceparent", sa.String(length=64), nullable=False),
        sa.Column("schedule", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("expansion", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("claim_id", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Text(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=True),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("end_order", sa.BigInteger(), nullable=False),
        sa.Column("confirm_time", sa.BigInteger(), nullable=True),
        sa.Column("delete_time", sa.BigInteger(), nullable=True),
        sa.Column("cascade_time", sa.BigInteger(), nullable=True),
        sa.Column("error_reason", sa.String(length=64), nullable=False),
        sa.Column("extractor", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("progress", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, columns, only in (
        ("time", ["create_time", "id"], ""),
        ("tenant", ["tenant", "create_time", "id"], ""),
        ("update", ["tenant", "update_time", "id"], ""),
        ("end", ["tenant", "end_order", "id"], ""),
        ("state", ["tenant", "state", "create_time", "id"], ""),
        ("reason", ["tenant", "error_reason", "create_time", "id"], " AND error_reason <> ''"),
        ("batch", ["tenant", "batch_id", "create_time", "id"], " AND batch_id <> ''"),
    ):
        where = sa.text(f"delete_time IS NULL{only}")
        op.create_index(f"jobs_by_{name}", "jobs", columns, sqlite_where=where, postgresql_where=where)
    op.create_index("jobs_due", "jobs", ["lane", "due", "tenant"], unique=False)
    op.create_index(
        "jobs_ready",
        "jobs",
        ["tenant", "due", "id"],
        unique=False,
        sqlite_where=sa.text("lane = 2"),
        postgresql_where=sa.text("lane = 2"),
    )
    op.create_index(
        "jobs_unconfirmed",
        "jobs",
        ["confirm_time"],
        unique=False,
        sqlite_where=sa.text("confirm_time IS NOT NULL"),
        postgresql_where=sa.text("confirm_time IS NOT NULL"),
    )
    op.create_index(
        "jobs_by_position",
        "jobs",
        ["parent", "position"],
        unique=True,
        sqlite_where=sa.text("parent <> ''"),
        postgresql_where=sa.text("parent <> ''"),
    )
    op.create_index(
        "jobs_cascading",
        "jobs",
        ["cascade_time"],
        unique=False,
        sqlite_where=sa.text("cascade_time IS NOT NULL"),
        postgresql_where=sa.text("cascade_time IS NOT NULL"),
    )
    op.create_index(
        "jobs_live_by_schedule",
        "jobs",
        ["tenant", "schedule"],
        unique=False,
        sqlite_where=sa.text("schedule <> '' AND end_time IS NULL"),
        postgresql_where=sa.text("schedule <> '' AND end_time IS NULL"),
    )
    op.create_index(
        "jobs_expiring",
        "jobs",
        ["expire_time"],
        unique=False,
        sqlite_where=sa.text("end_time IS NOT NULL AND delete_time IS NULL"),
        postgresql_where=sa.text("end_time IS NOT NULL AND delete_time IS NULL"),
    )
    op.create_index(
        "jobs_by_parent",
        "jobs",
        ["tenant", "parent", "create_time", "id"],
        unique=False,
        sqlite_where=sa.text("delete_time IS NULL AND parent <> ''"),
        postgresql_where=sa.text("delete_time IS NULL AND parent <> ''"),
    )
    op.create_index(
        "jobs_by_schedule",
        "jobs",
        ["tenant", "schedule", "create_time", "id"],
        unique=False,
        sqlite_where=sa.text("delete_time IS NULL AND schedule <> ''"),
        postgresql_where=sa.text("delete_time IS NULL AND schedule <> ''"),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "leaders",
        sa.Column("loop", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("loop"),
    )
    op.create_table(
        "request_ids",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("failed", sa.LargeBinary(), nullable=True),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "method", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("request_ids_by_time", "request_ids", ["time"], unique=False)
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("engine_version", sa.Text(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("downloaded_bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("http_statuses", sa.Text(), nullable=False),
        sa.Column("finish_revision", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("job", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("old_state", sa.SmallInteger(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("charged", sa.Integer(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=True),
        sa.Column("next_attempt_time", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "revision"),
        sqlite_with_rowid=False,
    )
    op.create_index("events_by_time", "events", ["time"], unique=False)
    op.create_table(
        "schedules",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("template", sa.LargeBinary(), nullable=False),
        sa.Column("skip_overlapping", sa.Boolean(), nullable=False),
        sa.Column("new_entries_only", sa.Boolean(), nullable=False),
        sa.Column("catch_up", sa.SmallInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("next_run_time", sa.BigInteger(), nullable=True),
        sa.Column("last_job", sa.String(length=36), nullable=False),
        sa.Column("last_error", sa.LargeBinary(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("seen_count", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
    )
    op.create_index(
        "schedules_due",
        "schedules",
        ["next_run_time"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_table(
        "seen_entries",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("schedule", sa.String(length=63), nullable=False),
        sa.Column("extractor", sa.String(length=64), nullable=False),
        sa.Column("media_id", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "schedule"], ["schedules.tenant", "schedules.id"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "schedule", "extractor", "media_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the tables, and all jobs with them."""
    for table in (
        "seen_entries",
        "schedules",
        "attempts",
        "events",
        "request_ids",
        "workers",
        "leaders",
        "keys",
        "jobs",
    ):
        op.drop_table(table)
