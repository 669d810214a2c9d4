"""The outbox of webhooks: changes of jobs and schedules, written in the transaction of the change itself.

So none is lost if a process dies, and each has its subject as it was after the change. Tenants without an
enabled webhook write nothing.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from reelhaul_jobs.model.schedule import Schedule
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.model.webhook import JOB_EVENT_TYPES, SCHEDULE_FAILED
from reelhaul_jobs.store import rows
from reelhaul_jobs.store.tables import jobs
from reelhaul_jobs.store.webhook_tables import IS_ENABLED, webhook_outbox, webhooks
from reelhaul_runtime.sql.statements import Statement

# A range: a list would make its length a part of the statement.
_TENANTS = Statement(
    select(webhooks.c.tenant)
    .distinct()
    .where(IS_ENABLED, webhooks.c.tenant >= bindparam("first"), webhooks.c.tenant <= bindparam("last"))
)
_INSERT = Statement(insert(webhook_outbox).inline())

# What a row written before a column was added has in it.
_DEFAULTS: Mapping[str, Any] = {
    column.name: column.type.python_type(column.server_default.arg)  # type: ignore[attr-defined]
    if column.server_default is not None
    else None
    for column in jobs.c
}


def record_job_changes(connection: Connection, changes: Sequence[Transition]) -> None:
    """Write those of *changes* that webhooks of their tenants may want."""
    relevant = [
        change
        for change in changes
        if change.job.state is not change.before.state and change.job.state in JOB_EVENT_TYPES
    ]
    if not relevant:
        return
    tenants = _tenants_with_webhooks(connection, {change.job.tenant for change in relevant})
    entries = [
        {
            "tenant": job.tenant,
            "type": JOB_EVENT_TYPES[job.state],
            "time": rows.to_micros(job.update_time),
            "batch_id": job.batch_id if job.state.is_terminal else "",
            "subject": _pack(rows.row_from_job(job)),
        }
        for job in (change.job for change in relevant)
        if job.tenant in tenants
    ]
    _INSERT.run_many(connection, entries)


def record_schedule_failure(connection: Connection, schedule: Schedule, row: Mapping[str, Any]) -> None:
    """Write that a run of *schedule*, whose columns are *row*, failed."""
    if schedule.tenant in _tenants_with_webhooks(connection, {schedule.tenant}):
        entry = {
            "tenant": schedule.tenant,
            "type": SCHEDULE_FAILED,
            "time": rows.to_micros(schedule.update_time),
            "batch_id": "",
            "subject": _pack(row),
        }
        _INSERT.run(connection, entry)


def unpack_job_row(text: str) -> Mapping[str, Any]:
    """Return the columns of a job from an entry."""
    return {**_DEFAULTS, **unpack_row(text)}


def unpack_row(text: str) -> Mapping[str, Any]:
    """Return the columns of a row from an entry."""
    row: dict[str, Any] = json.loads(text, object_hook=_decode_bytes)
    return row


def _tenants_with_webhooks(connection: Connection, tenants: Iterable[str]) -> set[str]:
    """Return those of *tenants* that have an enabled webhook, and perhaps others."""
    ordered = sorted(tenants)
    return set(_TENANTS.column(connection, {"first": ordered[0], "last": ordered[-1]}))


def _pack(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), ensure_ascii=False, separators=(",", ":"), default=_encode_bytes)


def _encode_bytes(value: bytes) -> dict[str, str]:
    return {"base64": b64encode(value).decode()}


def _decode_bytes(value: dict[str, Any]) -> Any:
    return b64decode(value["base64"]) if value.keys() == {"base64"} else value
