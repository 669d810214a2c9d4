"""Changes in SQL: the rows of several jobs read, and written, by one statement for each kind."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Connection, String, any_, bindparam, column, func, insert, select, update

from reelhaul_jobs.model.job import AttemptOutcome, Job
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import attempts, events, jobs
from reelhaul_runtime.sql.statements import Statement

_ADD_EVENT = Statement(insert(events))
_ADD_ATTEMPT = Statement(insert(attempts))
_CHANGE_JOB = Statement(update(jobs).where(jobs.c.id == bindparam("job")))
_END_ATTEMPT = Statement(
    update(attempts).where(attempts.c.job == bindparam("of_job"), attempts.c.number == bindparam("of_number"))
)
# One value that holds all ids, so that the statement is the same for any number of them.
_LISTED: Any = select(column("value")).select_from(func.json_each(bindparam("jobs")))
_TO_CHANGE = {
    "sqlite": Statement(select(jobs).where(jobs.c.id.in_(_LISTED))),
    "postgresql": Statement(
        select(jobs)
        .where(jobs.c.id == any_(bindparam("jobs", type_=ARRAY(String))))
        # In one order, lest two that change the same jobs wait for each other for ever.
        .order_by(jobs.c.id)
        .with_for_update()
    ),
}


def select_for_update(connection: Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Those of the jobs that have a row, deleted ones too; no other change of them comes between."""
    dialect = connection.dialect.name
    asked = json.dumps(ids) if dialect == "sqlite" else list(ids)
    return {row["id"]: rows.job_from_row(row) for row in _TO_CHANGE[dialect].all(connection, {"jobs": asked})}


def write(connection: Connection, made: Sequence[Transition]) -> None:
    """Write *made*, with one statement for each kind of row and change, however many they are."""
    _write_jobs(connection, made)
    events_of = [rows.row_from_event(change.job.id, event) for change in made if (event := change.event)]
    ended = [_end_of(change, ending) for change in made if (ending := change.attempt_outcome)]
    began = [rows.row_from_attempt(attempt) for change in made if (attempt := change.started_attempt)]
    for statement, values in (
        (_ADD_EVENT, events_of),
        (_END_ATTEMPT, ended),
        (_ADD_ATTEMPT, began),
    ):
        statement.run_many(connection, values)


def _write_jobs(connection: Connection, made: Sequence[Transition]) -> None:
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for change in made:
        if changed := rows.changed_columns(change.before, change.job):
            alike[tuple(changed)].append({"job": change.job.id, **changed})
    for values in alike.values():
        _CHANGE_JOB.run_many(connection, values)


def _end_of(change: Transition, ending: AttemptOutcome) -> dict[str, Any]:
    job = change.job
    return {
        "of_job": job.id,
        "of_number": change.before.attempt,
        "state": int(ending.state),
        "error": ending.error.SerializeToString() if ending.error else None,
        "http_statuses": rows.to_json(ending.http_statuses),
        "end_time": rows.to_micros(job.update_time),
        "downloaded_bytes": job.progress.downloaded_bytes if job.progress else 0,
        "finish_revision": job.revision if ending.finished else None,
    }
