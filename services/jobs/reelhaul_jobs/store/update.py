"""Reads jobs for update and writes transitions, with one statement for each kind of row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, insert, update

from reelhaul_jobs import metrics
from reelhaul_jobs.model.job import AttemptOutcome, Job
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.store import rows, rows_by_id, webhook_outbox
from reelhaul_jobs.store.tables import attempts, events, jobs
from reelhaul_runtime.sql.statements import Statement
from reelhaul_runtime.sql.writer import after_commit

_INSERT_EVENT = Statement(insert(events))
_INSERT_ATTEMPT = Statement(insert(attempts))
_UPDATE_JOB = Statement(update(jobs).where(jobs.c.id == bindparam("job")))
_UPDATE_ATTEMPT = Statement(
    update(attempts).where(attempts.c.job == bindparam("of_job"), attempts.c.number == bindparam("of_number"))
)


def select_for_update(connection: Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Return those of the jobs that have a row, deleted ones included, locked until the transaction ends."""
    found = rows_by_id.read_for_update(connection, ids)
    return {job_id: rows.job_from_row(row) for job_id, row in found.items()}


def write(connection: Connection, changes: Sequence[Transition]) -> None:
    """Write *changes* with their events and attempts, and what webhooks are to report."""
    _update_jobs(connection, changes)
    new_events = [rows.row_from_event(change.job.id, event) for change in changes if (event := change.event)]
    ended_attempts = [
        _ended_attempt(change, outcome) for change in changes if (outcome := change.attempt_outcome)
    ]
    new_attempts = [
        rows.row_from_attempt(attempt) for change in changes if (attempt := change.started_attempt)
    ]
    _INSERT_EVENT.run_many(connection, new_events)
    _UPDATE_ATTEMPT.run_many(connection, ended_attempts)
    _INSERT_ATTEMPT.run_many(connection, new_attempts)
    webhook_outbox.record_job_changes(connection, changes)
    after_commit(connection, partial(metrics.record_changes, changes))


def _update_jobs(connection: Connection, changes: Sequence[Transition]) -> None:
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for change in changes:
        if changed := rows.changed_columns(change.before, change.job):
            by_columns[tuple(changed)].append({"job": change.job.id, **changed})
    for values in by_columns.values():
        _UPDATE_JOB.run_many(connection, values)


def _ended_attempt(change: Transition, outcome: AttemptOutcome) -> dict[str, Any]:
    job = change.job
    return {
        "of_job": job.id,
        "of_number": change.before.attempt,
        "state": int(outcome.state),
        "error": outcome.error.SerializeToString() if outcome.error else None,
        "http_statuses": rows.to_json(outcome.http_statuses),
        "end_time": rows.to_micros(job.update_time),
        "downloaded_bytes": job.progress.downloaded_bytes if job.progress else 0,
        "finish_revision": job.revision if outcome.finished else None,
    }
