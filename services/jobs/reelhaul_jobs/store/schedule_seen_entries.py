"""What schedules remember of the entries that their runs saw."""

from __future__ import annotations

from collections.abc import Sequence, Set

from sqlalchemy import Connection, bindparam, select, update

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.store import idempotency
from reelhaul_jobs.store.tables import schedules, seen_entries

# Locked: two runs that page through the same list at once must not both take an entry for new.
_SCHEDULE = (
    select(schedules.c.id)
    .where(schedules.c.tenant == bindparam("of_tenant"), schedules.c.id == bindparam("of_schedule"))
    .with_for_update()
)
_SEEN = select(seen_entries.c.extractor, seen_entries.c.media_id).where(
    seen_entries.c.tenant == bindparam("of_tenant"),
    seen_entries.c.schedule == bindparam("of_schedule"),
    seen_entries.c.media_id.in_(bindparam("media_ids", expanding=True)),
)
_COUNTED = (
    update(schedules)
    .where(schedules.c.tenant == bindparam("of_tenant"), schedules.c.id == bindparam("of_schedule"))
    .values(seen_count=schedules.c.seen_count + bindparam("more"))
)


def list_seen_entries(connection: Connection, job: Job, media_ids: Sequence[str]) -> Set[tuple[str, str]]:
    """Which of *media_ids* the schedule of *job* has seen, with their extractors."""
    if not _remembers(job):
        return frozenset()
    asked = {"of_tenant": job.tenant, "of_schedule": job.schedule, "media_ids": list(media_ids)}
    connection.execute(_SCHEDULE, asked)
    return {(row.extractor, row.media_id) for row in connection.execute(_SEEN, asked)}


def add_seen_entries(connection: Connection, job: Job, entries: Sequence[tuple[str, str]]) -> None:
    """Remember *entries* for the schedule of *job*, if it is still there."""
    whose = {"of_tenant": job.tenant, "of_schedule": job.schedule}
    if not entries or connection.execute(_SCHEDULE, whose).first() is None:
        return
    told = [
        {"tenant": job.tenant, "schedule": job.schedule, "extractor": extractor, "media_id": media_id}
        for extractor, media_id in entries
    ]
    connection.execute(idempotency.insert_new(connection, seen_entries), told)
    connection.execute(_COUNTED, {**whose, "more": len(told)})


def _remembers(job: Job) -> bool:
    return bool(job.schedule and job.expansion and job.expansion.new_entries_only)
