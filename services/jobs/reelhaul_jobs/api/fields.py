"""Resource names, times and bounded strings of requests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul_runtime.errors import FieldInvalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTEMPT = re.compile(r"(?P<job>.+)/attempts/(?P<number>[1-9][0-9]{0,8})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def job_id(value: str, field: str = "name") -> str:
    """The bare id of ``jobs/{job}``, or of the id alone."""
    bare = value.removeprefix("jobs/")
    if not _ID.fullmatch(bare):
        raise FieldInvalid(field, "it is not of the form jobs/{job} with {job} a lower-case UUID")
    return bare


def attempt(value: str) -> tuple[str, int]:
    """Job id and number of ``jobs/{job}/attempts/{attempt}``."""
    match = _ATTEMPT.fullmatch(value)
    if match is None:
        raise FieldInvalid("name", "it is not of the form jobs/{job}/attempts/{attempt}")
    return job_id(match["job"]), int(match["number"])


def new_id(value: str) -> str:
    """A caller's own job id."""
    if not _ID.fullmatch(value):
        raise FieldInvalid("job_id", "it is not a lower-case UUID")
    return value


def request_id(value: str) -> str:
    """A request_id, empty or a UUID."""
    if value and not _UUID.fullmatch(value):
        raise FieldInvalid("request_id", "it is not a UUID")
    return value.lower()


def text(value: str, field: str, most: int, *, required: bool = False) -> str:
    """*value*, at most *most* characters and without NUL, which no database takes."""
    if required and not value:
        raise FieldInvalid(field, "it is required")
    if len(value) > most or "\0" in value:
        raise FieldInvalid(field, f"at most {most} characters, without NUL")
    return value


def page_size(value: int) -> int:
    """0 means 50, above 1000 means 1000."""
    if value < 0:
        raise FieldInvalid("page_size", "it is negative")
    return min(value or 50, 1000)


def between(value: int, field: str, least: int, most: int) -> int:
    """*value*, if it lies within its bounds."""
    if not least <= value <= most:
        raise FieldInvalid(field, f"it must be {least}..{most}")
    return value


def time(stamp: timestamp_pb2.Timestamp) -> datetime:
    """*stamp*, aware, in UTC."""
    return stamp.ToDatetime(UTC)


def stamp(value: datetime | None) -> timestamp_pb2.Timestamp | None:
    """*value* as a Timestamp; unset for None."""
    if value is None:
        return None
    # Not FromDatetime(): an answer has half a dozen, and it takes them through the calendar.
    since = value - _EPOCH
    return timestamp_pb2.Timestamp(
        seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000
    )


def duration(value: timedelta) -> duration_pb2.Duration:
    """*value* as a Duration."""
    made = duration_pb2.Duration()
    made.FromTimedelta(value)
    return made
