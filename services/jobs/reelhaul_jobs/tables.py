"""The tables. Times are microseconds since 1970 in UTC: exact, and the same on both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("url", Text, nullable=False),
    # Of the URL, as limits name it.
    Column("site", String(255), nullable=False, server_default=""),
    # What was asked, as a serialised FormatSpec.
    Column("format", LargeBinary, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    # JSON object of strings.
    Column("labels", Text, nullable=False),
    Column("schedule_time", BigInteger),
    Column("max_attempts", Integer, nullable=False),
    # Microseconds.
    Column("min_backoff", BigInteger, nullable=False),
    Column("max_backoff", BigInteger, nullable=False),
    Column("attempt_deadline", BigInteger, nullable=False),
    Column("ttl", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Column("batch_id", String(64), nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # What the loops have to do next, and when: the row is the outbox.
    Column("lane", SmallInteger, nullable=False),
    Column("due", BigInteger),
    Column("worker", Text, nullable=False),
    Column("claim_id", String(64), nullable=False),
    Column("egress", String(64), nullable=False, server_default=""),
    # JSON object: reason -> count.
    Column("failures", Text, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    # end_time, and far ahead until then: an order with NULL in it is another on each database.
    Column("end_order", BigInteger, nullable=False),
    Column("confirm_time", BigInteger),
    Column("delete_time", BigInteger),
    # For filters: ErrorInfo.reason of error.
    Column("error_reason", String(64), nullable=False),
    # For filters: of the media.
    Column("extractor", Text, nullable=False),
    Column("title", Text, nullable=False),
    # Serialised messages.
    Column("progress", LargeBinary),
    Column("error", LargeBinary),
    # What was learnt and made: a serialised jobs.v1.Job with media, got, artifacts, warnings.
    Column("result", LargeBinary),
)

# What the dispatcher may pick, in each tenant's order at each site.
Index(
    "jobs_ready",
    jobs.c.tenant,
    jobs.c.site,
    jobs.c.due,
    jobs.c.id,
    sqlite_where=text("lane = 2"),
    postgresql_where=text("lane = 2"),
)
# What the sweeper looks after; with tenant and site, so that counting reads no rows.
Index("jobs_due", jobs.c.lane, jobs.c.due, jobs.c.tenant, jobs.c.site)
Index(
    "jobs_unconfirmed",
    jobs.c.confirm_time,
    sqlite_where=text("confirm_time IS NOT NULL"),
    postgresql_where=text("confirm_time IS NOT NULL"),
)


def _listed(name: str, *columns: Column[Any], only: str = "") -> Index:
    """An index for ListJobs: partial, so that counting reads the index alone."""
    where = text(f"delete_time IS NULL AND {only}" if only else "delete_time IS NULL")
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


_listed("jobs_by_time", jobs.c.create_time, jobs.c.id)
_listed("jobs_by_tenant", jobs.c.tenant, jobs.c.create_time, jobs.c.id)
_listed("jobs_by_update", jobs.c.tenant, jobs.c.update_time, jobs.c.id)
_listed("jobs_by_end", jobs.c.tenant, jobs.c.end_order, jobs.c.id)
_listed("jobs_by_state", jobs.c.tenant, jobs.c.state, jobs.c.create_time, jobs.c.id)
_listed(
    "jobs_by_reason",
    jobs.c.tenant,
    jobs.c.error_reason,
    jobs.c.create_time,
    jobs.c.id,
    only="error_reason <> ''",
)
_listed("jobs_by_batch", jobs.c.tenant, jobs.c.batch_id, jobs.c.create_time, jobs.c.id, only="batch_id <> ''")

attempts = Table(
    "attempts",
    metadata,
    Column("job", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("engine_version", Text, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger),
    Column("downloaded_bytes", BigInteger, nullable=False),
    Column("error", LargeBinary),
    # JSON object: status -> times.
    Column("http_statuses", Text, nullable=False),
    # The job's revision after Finish; null where none came.
    Column("finish_revision", BigInteger),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("job", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("time", BigInteger, nullable=False),
    # Null: the job was created.
    Column("old_state", SmallInteger),
    Column("state", SmallInteger, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("error", LargeBinary),
    Column("next_attempt_time", BigInteger),
    sqlite_with_rowid=False,
)
Index("events_by_time", events.c.time)

request_ids = Table(
    "request_ids",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("method", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    # Ids of the jobs that it made or changed, JSON array.
    Column("response", Text, nullable=False),
    # Of a batch in part: why the others failed, a serialised BatchCreateJobsResponse.
    Column("failed", LargeBinary),
    Column("time", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index("request_ids_by_time", request_ids.c.time)

workers = Table(
    "workers",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("seen_time", BigInteger, nullable=False),
    Column("egress", String(64), nullable=False, server_default=""),
)

# How each egress stands with each site; no row: nothing is known, it is open.
gates = Table(
    "gates",
    metadata,
    Column("site", String(255), primary_key=True),
    Column("egress", String(64), primary_key=True),
    # Microseconds.
    Column("delay", BigInteger, nullable=False),
    Column("next_start", BigInteger),
    Column("parked_until", BigInteger),
    Column("parked_since", BigInteger),
    Column("cooldown", BigInteger, nullable=False),
    Column("reason", String(64), nullable=False),
    # Id of the job that finds out whether the site lets us in again.
    Column("probe", String(36), nullable=False),
    sqlite_with_rowid=False,
)

# Which replica leads a loop.
leaders = Table(
    "leaders",
    metadata,
    Column("loop", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
)

# Random keys that all replicas share, e.g. for page tokens.
keys = Table(
    "keys",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
