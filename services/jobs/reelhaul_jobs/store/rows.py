"""Conversion between rows and model values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2

from reelhaul.jobs.v1 import job_pb2
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.deliveries import delivery_from_proto, delivery_to_proto
from reelhaul_jobs.model.job import Attempt, Event, Expansion, Job, RetryPolicy
from reelhaul_jobs.model.lists import NEVER
from reelhaul_jobs.model.retries import error_reason
from reelhaul_jobs.model.states import AttemptState, Kind, Priority, QueueStage, State

M = TypeVar("M", bound=Message)

#: Values by column name: a Mapping, or SQLAlchemy's RowMapping, which is not one by its types.
Row = Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Return *time* as a row holds it."""
    return (time - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the time that a row holds."""
    return _EPOCH + timedelta(microseconds=value)


def row_from_job(job: Job) -> dict[str, Any]:
    """Return all columns of *job*."""
    return {
        "id": job.id,
        "tenant": job.tenant,
        "url": job.url,
        "site": job.site,
        "format": job.format.SerializeToString(),
        "kind": int(job.kind),
        "max_attempts": job.retry.max_attempts,
        "min_backoff": job.retry.min_backoff // _MICROSECOND,
        "max_backoff": job.retry.max_backoff // _MICROSECOND,
        "attempt_deadline": job.attempt_deadline // _MICROSECOND,
        "batch_id": job.batch_id,
        "traceparent": job.traceparent,
        "schedule": job.schedule,
        "parent": job.parent,
        "position": job.position,
        "deliver_to": job.deliver_to,
        "api_key": job.api_key,
        "create_time": to_micros(job.create_time),
    } | mutable_columns(job)


def mutable_columns(job: Job) -> dict[str, Any]:
    """Return the columns of *job* that may change."""
    return {
        "priority": int(job.priority),
        "labels": to_json(job.labels),
        "schedule_time": to_micros_or_none(job.schedule_time),
        "ttl": job.ttl // _MICROSECOND,
        "expire_time": to_micros_or_none(job.expire_time),
        "state": int(job.state),
        "attempt": job.attempt,
        "epoch": job.epoch,
        "charged": job.charged,
        "revision": job.revision,
        "lane": int(job.queue_stage),
        "due": to_micros_or_none(job.due),
        "worker": job.worker,
        "avoid_until": to_micros_or_none(job.avoid_until),
        "claim_id": job.claim_id,
        "egress": job.egress,
        "failures": to_json(job.failures),
        "update_time": to_micros(job.update_time),
        "start_time": to_micros_or_none(job.start_time),
        "end_time": to_micros_or_none(job.end_time),
        "end_order": to_micros(job.end_time or NEVER),
        "confirm_time": to_micros_or_none(job.confirm_time),
        "delete_time": to_micros_or_none(job.delete_time),
        "delivery_time": to_micros_or_none(job.delivery_time),
        "cascade_time": to_micros_or_none(job.cascade_time),
        "quota_day": job.quota_day,
        "reserved_bytes": job.reserved_bytes,
        "stored_bytes": job.stored_bytes,
        "expansion": _expansion_to_bytes(job.expansion),
        "error_reason": ErrorReason.Name(error_reason(job.error)) if job.error else "",
        "extractor": _searchable(job.media.extractor) if job.media else "",
        "title": _searchable(job.media.title) if job.media else "",
        "progress": _serialize(job.progress),
        "error": _serialize(job.error),
        "result": _result_from_job(job),
    }


def changed_columns(before: Job, job: Job) -> dict[str, Any]:
    """Return the columns in which *job* differs from *before*, so that only their indexes are updated."""
    old_fields, row = vars(before), mutable_columns(job)
    changed = [
        name
        for name, value in vars(job).items()
        if value is not (old := old_fields.get(name)) and value != old
    ]
    columns = (column for name in changed for column in _COLUMNS_OF.get(name, (name,)))
    return {column: row[column] for column in columns if column in row}


# The fields of Job that are not stored in one column of the same name.
_COLUMNS_OF: Mapping[str, tuple[str, ...]] = {
    "queue_stage": ("lane",),
    "end_time": ("end_time", "end_order"),
    "error": ("error", "error_reason"),
    "media": ("result", "extractor", "title"),
    "got": ("result",),
    "artifacts": ("result",),
    "warnings": ("result",),
    "deliveries": ("result",),
    "recording_stop_time": ("result",),
}


def job_from_row(row: Row) -> Job:
    """Return the job of a row with all columns."""
    result = _parse(job_pb2.Job, row["result"]) or _NO_RESULT
    fields: dict[str, Any] = {name: row[name] for name in _UNCONVERTED}
    for name in _TIMES:
        micros = row[name]
        fields[name] = None if micros is None else _EPOCH + timedelta(microseconds=micros)
    fields |= {
        "format": media_pb2.FormatSpec.FromString(row["format"]),
        "priority": _PRIORITIES[row["priority"]],
        "kind": _KINDS[row["kind"]],
        "labels": _mapping_from_json(row["labels"]),
        "retry": _retry_policy(row["max_attempts"], row["min_backoff"], row["max_backoff"]),
        "attempt_deadline": timedelta(microseconds=row["attempt_deadline"]),
        "ttl": timedelta(microseconds=row["ttl"]),
        "expansion": _expansion_from_bytes(row["expansion"]),
        "state": _STATES[row["state"]],
        "queue_stage": _QUEUE_STAGES[row["lane"]],
        "failures": _mapping_from_json(row["failures"]),
        "progress": _parse(media_pb2.Progress, row["progress"]),
        "error": _parse(status_pb2.Status, row["error"]),
        "media": result.media if result.HasField("media") else None,
        "got": result.got if result.HasField("got") else None,
        "artifacts": tuple(result.artifacts),
        "warnings": tuple(result.warnings),
        "deliveries": tuple(map(delivery_from_proto, result.deliveries)),
        "recording_stop_time": _stop_time(result),
    }
    return Job.from_row(row["site"], fields)


_NO_RESULT = job_pb2.Job()

# A lookup costs a quarter of what the call of an enum does, and a list has hundreds.
_PRIORITIES, _KINDS, _STATES, _QUEUE_STAGES = (
    {int(member): member for member in enum} for enum in (Priority, Kind, State, QueueStage)
)


@lru_cache(maxsize=256)
def _retry_policy(max_attempts: int, min_backoff: int, max_backoff: int) -> RetryPolicy:
    """Return the policy, which most jobs share; delays are in microseconds."""
    return RetryPolicy(
        max_attempts=max_attempts,
        min_backoff=timedelta(microseconds=min_backoff),
        max_backoff=timedelta(microseconds=max_backoff),
    )


# The fields of Job that a row holds unconverted.
_UNCONVERTED = (
    "id",
    "tenant",
    "url",
    "batch_id",
    "traceparent",
    "schedule",
    "parent",
    "position",
    "deliver_to",
    "api_key",
    "quota_day",
    "reserved_bytes",
    "stored_bytes",
    "attempt",
    "epoch",
    "charged",
    "revision",
    "worker",
    "claim_id",
    "egress",
)
# The times of Job, each in a column of the same name.
_TIMES = (
    "schedule_time",
    "create_time",
    "update_time",
    "start_time",
    "end_time",
    "expire_time",
    "due",
    "avoid_until",
    "confirm_time",
    "delete_time",
    "delivery_time",
    "cascade_time",
)


def row_from_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return all columns of *attempt*."""
    return {
        "job": attempt.job,
        "number": attempt.number,
        "epoch": attempt.epoch,
        "state": int(attempt.state),
        "worker": attempt.worker,
        "engine_version": attempt.engine_version,
        "start_time": to_micros(attempt.start_time),
        "end_time": to_micros_or_none(attempt.end_time),
        "downloaded_bytes": attempt.downloaded_bytes,
        "error": _serialize(attempt.error),
        "http_statuses": to_json(attempt.http_statuses),
        "finish_revision": attempt.finish_revision,
    }


def attempt_from_row(row: Row) -> Attempt:
    """Return the attempt of a row with all columns."""
    return Attempt(
        job=row["job"],
        number=row["number"],
        epoch=row["epoch"],
        state=AttemptState(row["state"]),
        worker=row["worker"],
        engine_version=row["engine_version"],
        start_time=from_micros(row["start_time"]),
        end_time=from_micros_or_none(row["end_time"]),
        downloaded_bytes=row["downloaded_bytes"],
        error=_parse(status_pb2.Status, row["error"]),
        http_statuses={int(status): count for status, count in json.loads(row["http_statuses"]).items()},
        finish_revision=row["finish_revision"],
    )


def row_from_event(job_id: str, event: Event) -> dict[str, Any]:
    """Return all columns of *event*."""
    return {
        "job": job_id,
        "revision": event.revision,
        "time": to_micros(event.time),
        "old_state": None if event.old_state is None else int(event.old_state),
        "state": int(event.state),
        "charged": event.charged,
        "error": _serialize(event.error),
        "next_attempt_time": to_micros_or_none(event.next_attempt_time),
    }


def event_from_row(row: Row) -> Event:
    """Return the event of a row with all columns."""
    return Event(
        revision=row["revision"],
        time=from_micros(row["time"]),
        old_state=None if row["old_state"] is None else State(row["old_state"]),
        state=State(row["state"]),
        charged=row["charged"],
        error=_parse(status_pb2.Status, row["error"]),
        next_attempt_time=from_micros_or_none(row["next_attempt_time"]),
    )


def _result_from_job(job: Job) -> bytes | None:
    stop_time = job.recording_stop_time
    lists = job.artifacts or job.warnings or job.deliveries
    if job.media is None and job.got is None and not (lists or stop_time):
        return None
    result = job_pb2.Job(media=job.media, got=job.got, artifacts=job.artifacts, warnings=job.warnings)
    result.deliveries.extend(delivery_to_proto(job, delivery) for delivery in job.deliveries)
    if stop_time:
        result.recording_stop_time.FromDatetime(stop_time)
    return result.SerializeToString()


def _stop_time(result: job_pb2.Job) -> datetime | None:
    return result.recording_stop_time.ToDatetime(UTC) if result.HasField("recording_stop_time") else None


def _expansion_to_bytes(expansion: Expansion | None) -> bytes | None:
    return None if expansion is None else job_pb2.Expansion(**asdict(expansion)).SerializeToString()


def _expansion_from_bytes(value: bytes | None) -> Expansion | None:
    message = _parse(job_pb2.Expansion, value)
    if message is None:
        return None
    return Expansion(**{name: getattr(message, name) for name in _EXPANSION_FIELDS})


# The message has fields of the same names.
_EXPANSION_FIELDS = tuple(field.name for field in fields(Expansion))


def _searchable(text: str) -> str:
    """Return text of a site as a column takes it: PostgreSQL rejects NUL, and an index long values."""
    return text.replace("\0", "")[:500]


def _mapping_from_json(text: str) -> Mapping[str, Any]:
    return json.loads(text) if text != "{}" else {}


def to_json(value: Mapping[Any, Any]) -> str:
    """Return *value* as a JSON column holds it."""
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":")) if value else "{}"


def to_micros_or_none(time: datetime | None) -> int | None:
    """Return *time* as a row holds it, null for None."""
    return None if time is None else to_micros(time)


def from_micros_or_none(value: int | None) -> Any:
    """Return the time that a row holds, None for null."""
    return None if value is None else from_micros(value)


def _serialize(message: Message | None) -> bytes | None:
    return None if message is None else message.SerializeToString()


def _parse(message_type: type[M], value: bytes | None) -> M | None:
    return None if value is None else message_type.FromString(value)
