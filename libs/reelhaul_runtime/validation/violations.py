"""Findings: what is wrong with a request, gathered until it can be told in one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, Violation

_TOLD_IN_TEXT = 3
# Longer than any media; what passes it would overflow arithmetic later.
_LONGEST = timedelta(days=3660)


#: Returns what a caller's own request calls a field that is checked by its path, e.g. ``job.url``.
FieldNames = Callable[[str], str]


def same_name(field: str) -> str:
    """Return *field*: the caller's request calls it the same."""
    return field


class FieldViolations:
    """Violations of one request, in the order found; each method adds one where there is one.

    The fields are reported as *names* calls them.
    """

    def __init__(self, names: FieldNames = same_name) -> None:
        self._names = names
        self._violations: list[Violation] = []
        self._reason: ErrorReason.ValueType = ErrorReason.FIELD_INVALID
        self._metadata: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self._violations)

    def add(
        self,
        field: str,
        description: str,
        *,
        reason: ErrorReason.ValueType = ErrorReason.FIELD_INVALID,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """*field* breaks a rule; a *reason* of its own becomes the reason of the whole."""
        self._violations.append(Violation(self._names(field), description))
        if reason != ErrorReason.FIELD_INVALID and self._reason == ErrorReason.FIELD_INVALID:
            self._reason, self._metadata = reason, dict(metadata or {})

    def check_range(self, field: str, value: float, low: int, high: int) -> bool:
        """Whether *value* is unset (0) or within *low*..*high*."""
        if value and not low <= value <= high:
            self.add(field, f"it is {value:g}, and must be {low}..{high}")
            return False
        return True

    def check_duration(
        self, field: str, value: duration_pb2.Duration, low: timedelta, high: timedelta = _LONGEST
    ) -> bool:
        """Whether *value* is a duration within *low*..*high*."""
        if abs(value.nanos) > 999_999_999 or value.seconds * value.nanos < 0:
            self.add(field, "it is no valid duration")
            return False
        seconds = value.seconds + value.nanos / 1e9
        if seconds < low.total_seconds():
            self.add(field, f"it is {seconds:g} s, and must be at least {low.total_seconds():g} s")
            return False
        if seconds > high.total_seconds():
            self.add(field, f"it is {seconds:g} s, and must be at most {high.total_seconds():g} s")
            return False
        return True

    def check_time(
        self, field: str, value: timestamp_pb2.Timestamp, *, not_before: datetime, not_after: datetime
    ) -> bool:
        """Whether *value* is a time between the two."""
        try:
            moment = value.ToDatetime(UTC)
        except (ValueError, OverflowError):
            self.add(field, "it is no valid time")
            return False
        if moment < not_before:
            self.add(field, f"{moment.isoformat()} is in the past")
            return False
        if moment > not_after:
            self.add(field, f"{moment.isoformat()} is too far ahead; the latest is {not_after.isoformat()}")
            return False
        return True

    def raise_if_any(self) -> None:
        """Raise all findings as one error, or return where there is none."""
        if not self._violations:
            return
        told = "; ".join(f"{v.field}: {v.description}" for v in self._violations[:_TOLD_IN_TEXT])
        if (more := len(self._violations) - _TOLD_IN_TEXT) > 0:
            told += f"; and {more} more"
        metadata = self._metadata
        if self._reason == ErrorReason.FIELD_INVALID:
            metadata = {"field": self._violations[0].field}
        raise ReelhaulError(self._reason, told, metadata=metadata, violations=self._violations)
