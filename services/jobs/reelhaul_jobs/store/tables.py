"""The tables of the jobs database. Times are microseconds since 1970 in UTC, exact on both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
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

from reelhaul_runtime.sql.filter_conditions import UNSET

metadata = MetaData()

#: model.lists.NEVER as a row holds it.
NEVER = 7_258_118_400_000_000

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("url", Text, nullable=False),
    # The site of the URL.
    Column("site", String(255), nullable=False, server_default=""),
    # A serialized FormatSpec.
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
    Column("schedule", String(64), nullable=False),
    # The expansion that created it, and the entry's position in the playlist.
    Column("parent", String(36), nullable=False),
    Column("position", Integer, nullable=False),
    # For an expansion: a serialized jobs.v1.Expansion.
    Column("expansion", LargeBinary),
    Column("state", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # The queue stage: what the loops do next, and when. The row is the outbox.
    Column("lane", SmallInteger, nullable=False),
    Column("due", BigInteger),
    Column("worker", Text, nullable=False),
    # Until then, that worker does not get it.
    Column("avoid_until", BigInteger),
    Column("claim_id", String(64), nullable=False),
    Column("egress", String(64), nullable=False, server_default=""),
    # JSON object: reason -> count.
    Column("failures", Text, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("start_time", BigInteger),
    Column("end_time", BigInteger),
    # end_time, or NEVER: SQLite and PostgreSQL sort NULL differently.
    Column("end_order", BigInteger, nullable=False, info={UNSET: NEVER}),
    Column("confirm_time", BigInteger),
    Column("delete_time", BigInteger),
    # The tenant's destination, and when the next delivery to it is to be tried.
    Column("deliver_to", String(63), nullable=False, server_default=""),
    Column("delivery_time", BigInteger),
    # Set if its children are to be cancelled.
    Column("cascade_time", BigInteger),
    # Id of the key that created it; empty without one.
    Column("api_key", String(36), nullable=False, server_default=""),
    # The day in days since 1970 that its use of quotas counts for; null if it is not counted.
    Column("quota_day", Integer),
    # Bytes that it reserves while it has not ended, and of its artifacts.
    Column("reserved_bytes", BigInteger, nullable=False, server_default="0"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    # For filters: ErrorInfo.reason of error.
    Column("error_reason", String(64), nullable=False),
    # For filters: of media.
    Column("extractor", Text, nullable=False),
    Column("title", Text, nullable=False),
    # Serialized messages.
    Column("progress", LargeBinary),
    Column("error", LargeBinary),
    # A serialized jobs.v1.Job with media, got, artifacts, warnings, deliveries and recording_stop_time.
    Column("result", LargeBinary),
)

# What the dispatcher may publish, in the order of each tenant at each site.
Index(
    "jobs_ready",
    jobs.c.tenant,
    jobs.c.site,
    jobs.c.due,
    jobs.c.id,
    # So that the jobs of a key are skipped by reading the index only.
    jobs.c.api_key,
    sqlite_where=text("lane = 2"),
    postgresql_where=text("lane = 2"),
)
#: The queue stages that the loops read besides READY. Queries must use this text: from a bound value
#: neither database sees that the partial index fits.
IN_FLIGHT = text("lane IN (1, 3, 4)")
# With tenant, site and key, so that counting reads the index only.
Index(
    "jobs_due",
    jobs.c.lane,
    jobs.c.due,
    jobs.c.tenant,
    jobs.c.site,
    jobs.c.api_key,
    sqlite_where=IN_FLIGHT,
    postgresql_where=IN_FLIGHT,
)
Index(
    "jobs_unconfirmed",
    jobs.c.confirm_time,
    sqlite_where=text("confirm_time IS NOT NULL"),
    postgresql_where=text("confirm_time IS NOT NULL"),
)


def _partial(name: str, *columns: Column[Any], only: str, unique: bool = False) -> Index:
    """Create a partial index, of the rows that match *only*."""
    return Index(name, *columns, unique=unique, sqlite_where=text(only), postgresql_where=text(only))


# Each entry of a playlist becomes one job.
_partial("jobs_by_position", jobs.c.parent, jobs.c.position, only="parent <> ''", unique=True)
_partial("jobs_cascading", jobs.c.cascade_time, only="cascade_time IS NOT NULL")
_partial("jobs_delivering", jobs.c.delivery_time, only="delivery_time IS NOT NULL")
_partial(
    "jobs_live_by_schedule",
    jobs.c.tenant,
    jobs.c.schedule,
    only="schedule <> '' AND end_time IS NULL",
)
# For the limit of a tenant's expansions.
_partial("jobs_live_expansions", jobs.c.tenant, only="kind = 2 AND end_time IS NULL")
# For the deletion of expired jobs.
_partial("jobs_expiring", jobs.c.expire_time, only="end_time IS NOT NULL AND delete_time IS NULL")


def _listed(name: str, *columns: Column[Any], only: str = "") -> Index:
    """Create an index for ListJobs, partial so that counting reads the index only."""
    return _partial(name, *columns, only=f"delete_time IS NULL AND {only}" if only else "delete_time IS NULL")


_listed("jobs_by_time", jobs.c.create_time, jobs.c.id)
_listed("jobs_by_tenant", jobs.c.tenant, jobs.c.create_time, jobs.c.id)
_listed("jobs_by_state", jobs.c.tenant, jobs.c.state, jobs.c.create_time, jobs.c.id)
# Lists of several states in these orders are merged from lists of one state.
_listed("jobs_by_state_update", jobs.c.tenant, jobs.c.state, jobs.c.update_time, jobs.c.id)
_listed("jobs_by_state_end", jobs.c.tenant, jobs.c.state, jobs.c.end_order, jobs.c.id)
_listed(
    "jobs_by_reason",
    jobs.c.tenant,
    jobs.c.error_reason,
    jobs.c.create_time,
    jobs.c.id,
    only="error_reason <> ''",
)
_listed("jobs_by_batch", jobs.c.tenant, jobs.c.batch_id, jobs.c.create_time, jobs.c.id, only="batch_id <> ''")
_listed(
    "jobs_by_parent",
    jobs.c.tenant,
    jobs.c.parent,
    jobs.c.create_time,
    jobs.c.id,
    only="parent <> ''",
)
_listed(
    "jobs_by_schedule",
    jobs.c.tenant,
    jobs.c.schedule,
    jobs.c.create_time,
    jobs.c.id,
    only="schedule <> ''",
)

#: As text, so that the databases see that the partial indexes fit.
HAS_PARENT = text("jobs.parent <> ''")
HAS_SCHEDULE = text("jobs.schedule <> ''")
IS_LIVE_EXPANSION = text("jobs.kind = 2 AND jobs.end_time IS NULL")

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
    # JSON object: status -> count.
    Column("http_statuses", Text, nullable=False),
    # The job's revision after Finish; null if there was none.
    Column("finish_revision", BigInteger),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("job", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("time", BigInteger, nullable=False),
    # Null if the job was created.
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
    # JSON array of the ids of the jobs that it created or changed.
    Column("response", Text, nullable=False),
    # For a partial batch: why the others failed, as a serialized BatchCreateJobsResponse.
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

# Rate limits by site and egress (table gates); no row means no limit.
site_rate_limits = Table(
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
    # Id of the job that finds out whether the site serves us again.
    Column("probe", String(36), nullable=False),
    sqlite_with_rowid=False,
)

# Which replica leads which loop.
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

schedules = Table(
    "schedules",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("cron", Text, nullable=False),
    Column("time_zone", String(64), nullable=False),
    # What each job is created from, as a serialized jobs.v1.Job.
    Column("template", LargeBinary, nullable=False),
    Column("skip_overlapping", Boolean, nullable=False),
    Column("new_entries_only", Boolean, nullable=False),
    Column("catch_up", SmallInteger, nullable=False),
    Column("end_time", BigInteger),
    Column("state", SmallInteger, nullable=False),
    # When it runs next, or would have when it was paused.
    Column("next_run_time", BigInteger),
    # The id, without "jobs/".
    Column("last_job", String(36), nullable=False),
    Column("last_error", LargeBinary),
    # Failed runs in a row.
    Column("failures", Integer, nullable=False),
    Column("seen_count", BigInteger, nullable=False),
    # Id of the key that created it, whose quotas its jobs use; empty without one.
    Column("api_key", String(36), nullable=False, server_default=""),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
)
# For the scheduler; 1 is ENABLED.
_partial("schedules_due", schedules.c.next_run_time, only="state = 1")

# Entries that the runs of a schedule have seen.
seen_entries = Table(
    "seen_entries",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("schedule", String(63), primary_key=True),
    Column("extractor", String(64), primary_key=True),
    # The site's own id, or the digest of a very long one.
    Column("media_id", String(256), primary_key=True),
    ForeignKeyConstraint(["tenant", "schedule"], ["schedules.tenant", "schedules.id"], ondelete="CASCADE"),
    sqlite_with_rowid=False,
)
