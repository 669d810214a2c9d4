"""Reads the outbox of webhooks: its entries, the batches that ended with them, and the numbers of events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, bindparam, delete, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.webhook import SCHEDULE_FAILED
from reelhaul_jobs.model.webhook_delivery import Event, FinishedBatch, OutboxEntry
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.schedules import schedule_from_row
from reelhaul_jobs.store.tables import jobs
from reelhaul_jobs.store.webhook_outbox import unpack_job_row, unpack_row
from reelhaul_jobs.store.webhook_tables import webhook_outbox, webhook_sequences

_ENTRIES = select(webhook_outbox).order_by(webhook_outbox.c.id).limit(bindparam("most"))
_OF_IDS = webhook_outbox.c.id.in_(bindparam("ids", expanding=True))
_COUNT = select(func.count()).select_from(webhook_outbox).where(_OF_IDS)
_DELETE = delete(webhook_outbox).where(_OF_IDS)
# Any number, the same in all replicas.
_LOCK = text("SELECT pg_advisory_xact_lock(7251103)")
_PENDING_BATCHES = (
    select(webhook_outbox.c.tenant, webhook_outbox.c.batch_id)
    .distinct()
    .where(webhook_outbox.c.batch_id.in_(bindparam("batches", expanding=True)))
)
_STATE_COUNTS = (
    select(jobs.c.state, jobs.c.kind, func.count().label("jobs"), func.max(jobs.c.parent).label("parent"))
    .where(
        jobs.c.tenant == bindparam("of_tenant"),
        jobs.c.batch_id == bindparam("of_batch"),
        # For the index.
        text("jobs.delete_time IS NULL AND jobs.batch_id <> ''"),
    )
    .group_by(jobs.c.state, jobs.c.kind)
)


def list_entries(connection: Connection, limit: int) -> Sequence[OutboxEntry]:
    """Return the oldest entries, in order."""
    return [_entry_from_row(row) for row in connection.execute(_ENTRIES, {"most": limit}).mappings()]


def delete_entries(connection: Connection, entries: Sequence[OutboxEntry]) -> bool:
    """Delete *entries*; return False, and delete nothing, if some of them do not exist any more."""
    if connection.dialect.name == "postgresql":
        # Leaders may overlap for a moment. SQLite has one writer.
        connection.execute(_LOCK)
    keys = {"ids": [entry.id for entry in entries]}
    if connection.execute(_COUNT, keys).scalar_one() != len(entries):
        return False
    connection.execute(_DELETE, keys)
    return True


def find_finished_batches(connection: Connection, entries: Sequence[OutboxEntry]) -> Sequence[FinishedBatch]:
    """Return the batches of the jobs of *entries*, which are deleted, that have ended with them.

    A batch has ended if none of its jobs is live. If a further entry of one of them waits, the batch ends
    with that one.
    """
    ended = [entry.subject for entry in entries if isinstance(entry.subject, Job)]
    batches = dict.fromkeys(
        (job.tenant, job.batch_id) for job in ended if job.state.is_terminal and job.batch_id
    )
    if not batches:
        return []
    names = {"batches": [batch_id for _, batch_id in batches]}
    counted = [_count(connection, tenant, batch_id) for tenant, batch_id in batches]
    # After the states: a job that ended in between has its entry here.
    pending = {tuple(row) for row in connection.execute(_PENDING_BATCHES, names)}
    return [batch for batch in counted if batch is not None and (batch.tenant, batch.batch_id) not in pending]


def number(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """Return *events* with the next numbers of their tenants."""
    counts = Counter(event.tenant for event in events)
    # In the same order everywhere, so that two transactions cannot wait for each other.
    following = {tenant: _advance(connection, tenant, counts[tenant]) for tenant in sorted(counts)}
    numbered = []
    used: defaultdict[str, int] = defaultdict(int)
    for event in events:
        used[event.tenant] += 1
        last = following[event.tenant] - counts[event.tenant]
        numbered.append(replace(event, sequence=last + used[event.tenant]))
    return numbered


def _advance(connection: Connection, tenant: str, count: int) -> int:
    """Add *count* to the last number of *tenant*, and return it."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(webhook_sequences).values(tenant=tenant, last=count)
    upsert = statement.on_conflict_do_update(
        index_elements=[webhook_sequences.c.tenant],
        set_={"last": webhook_sequences.c.last + statement.excluded.last},
    )
    return int(connection.execute(upsert.returning(webhook_sequences.c.last)).scalar_one())


def _count(connection: Connection, tenant: str, batch_id: str) -> FinishedBatch | None:
    """Return the batch with its numbers of jobs; None if one of them is live."""
    found = connection.execute(_STATE_COUNTS, {"of_tenant": tenant, "of_batch": batch_id}).all()
    if not all(State(row.state).is_terminal for row in found):
        return None
    # The jobs of an expansion have its id as their batch, and so has the expansion.
    parent = max(
        (row.parent or (batch_id if row.kind == Kind.EXPANSION else "") for row in found), default=""
    )
    counts = {State(row.state): row.jobs for row in found if row.kind == Kind.SINGLE}
    return FinishedBatch(tenant=tenant, batch_id=batch_id, parent=parent, state_counts=counts)


def _entry_from_row(row: rows.Row) -> OutboxEntry:
    is_schedule = row["type"] == SCHEDULE_FAILED
    return OutboxEntry(
        id=row["id"],
        tenant=row["tenant"],
        type=row["type"],
        time=rows.from_micros(row["time"]),
        subject=schedule_from_row(unpack_row(row["subject"]))
        if is_schedule
        else rows.job_from_row(unpack_job_row(row["subject"])),
    )
