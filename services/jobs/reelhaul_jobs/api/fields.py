"""Fields that requests and responses share: names, ids, times, bounded text, idempotency keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid

M = TypeVar("M", bound=Message)

#: A client accepts responses of 4 MiB by default.
MAX_RESPONSE_BYTES = 3_500_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTEMPT_NAME = re.compile(r"(?P<job>.+)/attempts/(?P<number>[1-9][0-9]{0,8})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def caller_owner() -> Owner:
    """Return whose jobs the caller may name: its tenant's, or everyone's for ADMIN and for services."""
    caller = identity.caller()
    return None if caller.sees_all_tenants else caller.tenant


def listed_owner() -> Owner:
    """Return whose jobs a list has that names no tenant: the caller's, or everyone's for services."""
    caller = identity.caller()
    return None if caller.suite else caller.tenant


def caller_key_id() -> str:
    """Return the id of the caller's key; empty for a caller without one."""
    principal = identity.caller().principal
    return principal.removeprefix("apiKeys/") if principal.startswith("apiKeys/") else ""


def resolve_update_mask(
    mask: field_mask_pb2.FieldMask, update: Message, unchanging: Collection[str] = ("name", "etag")
) -> field_mask_pb2.FieldMask:
    """Return the fields of *update* to change: those of *mask*, or without a mask all set ones; ``*`` is all.

    *unchanging* are left out. Raises FIELD_INVALID. https://google.aip.dev/134
    """
    paths = [path for path in mask.paths if path not in unchanging]
    if not mask.paths:
        paths = [field.name for field, _ in update.ListFields() if field.name not in unchanging]
    resolved, descriptor = field_mask_pb2.FieldMask(paths=paths), cast("Descriptor", update.DESCRIPTOR)
    if paths == ["*"]:
        resolved.AllFieldsFromDescriptor(descriptor)
    if not resolved.IsValidForDescriptor(descriptor):
        raise FieldInvalid("update_mask", f"names a field that {descriptor.name} does not have")
    return resolved


def parse_job_id(value: str, field: str = "name") -> str:
    """Return the id of ``jobs/{job}``, or of the id alone; a *field* ``job_id`` is described as an id."""
    job_id = value.removeprefix("jobs/")
    if not _JOB_ID.fullmatch(job_id):
        form = "must be " if field == "job_id" else "must have the form jobs/{job}, where {job} is "
        raise FieldInvalid(field, f"{form}a lower-case UUID")
    return job_id


def parse_attempt_name(value: str) -> tuple[str, int]:
    """Return job id and number of ``jobs/{job}/attempts/{attempt}``."""
    match = _ATTEMPT_NAME.fullmatch(value)
    if match is None:
        raise FieldInvalid("name", "must have the form jobs/{job}/attempts/{attempt}")
    return parse_job_id(match["job"]), int(match["number"])


def check_new_job_id(value: str, field: str = "job_id") -> str:
    """Return *value* if a caller may choose it as the id of a new job."""
    if not _JOB_ID.fullmatch(value):
        raise FieldInvalid(field, "must be a lower-case UUID")
    return value


def check_text(value: str, field: str, max_length: int, *, required: bool = False) -> str:
    """Return *value* if it has at most *max_length* characters and no NUL, which databases reject."""
    if required and not value:
        raise FieldInvalid(field, "is required")
    if len(value) > max_length or "\0" in value:
        raise FieldInvalid(field, f"must have at most {max_length} characters, without NUL")
    return value


def check_range(value: int, field: str, low: int, high: int) -> int:
    """Return *value* if it is within *low*..*high*."""
    if not low <= value <= high:
        raise FieldInvalid(field, f"must be between {low} and {high}, not {value}")
    return value


def idempotency_key(request: Message, method: str, tenant: str, now: datetime) -> IdempotencyKey | None:
    """Return what makes the call idempotent (AIP-155); None where the caller set no request_id.

    *request* is a message with the field request_id.
    """
    request_id: str = request.request_id  # type: ignore[attr-defined]
    if not request_id:
        return None
    if not _UUID.fullmatch(request_id):
        raise FieldInvalid("request_id", "must be a UUID")
    content = type(request)()
    content.CopyFrom(request)
    content.ClearField("request_id")
    digest = hashlib.sha256(content.SerializeToString(deterministic=True)).digest()
    return IdempotencyKey(tenant, method, request_id.lower(), digest, now)


def fit_into_response(messages: Iterable[M]) -> list[M]:
    """Return the first of *messages* that fit into one response, at least one if there are any."""
    fitting, size = list[M](), 0
    for message in messages:
        size += message.ByteSize()
        if fitting and size > MAX_RESPONSE_BYTES:
            break
        fitting.append(message)
    return fitting


def to_datetime(timestamp: timestamp_pb2.Timestamp) -> datetime:
    """Return *timestamp* as an aware datetime in UTC."""
    return timestamp.ToDatetime(UTC)


def to_timestamp(time: datetime | None) -> Any:
    """Return *time* as a new message takes it for a field of type Timestamp; None for None."""
    if time is None:
        return None
    # Neither FromDatetime(), which goes through the calendar, nor a Timestamp, which the message would copy:
    # a list of jobs has hundreds of times.
    elapsed = time - _EPOCH
    return {"seconds": elapsed.days * 86_400 + elapsed.seconds, "nanos": elapsed.microseconds * 1000}


def to_duration(value: timedelta) -> duration_pb2.Duration:
    """Return *value* as a Duration."""
    duration = duration_pb2.Duration()
    duration.FromTimedelta(value)
    return duration


def to_seconds(duration: duration_pb2.Duration) -> float:
    """Return *duration* in seconds."""
    return duration.seconds + duration.nanos / 1e9
