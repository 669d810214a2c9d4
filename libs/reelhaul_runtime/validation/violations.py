"""Field violations: everything that is wrong with a request, collected for one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError, Violation

_MAX_IN_TEXT = 3
# Violations that an error lists; one request may have a million.
_MAX_LISTED = 100
# Longer than any media; larger values would overflow arithmetic later.
_MAX_DURATION = timedelta(days=3660)


#: Returns the name that a caller's own request has for a field that is checked by its path, e.g. ``job.url``.
FieldNames = Callable[[str], str]


def same_name(field: str) -> str:
    """Return *field*: the caller's request has the same name for it."""
    return field


class FieldViolations:
    """Violations of one request, in the order found; each ``check_`` method adds one if there is one.

    The first hundred are kept. Fields are reported by the names that *names* returns.
    """

    def __init__(self, names: FieldNames = same_name) -> None:
        self._names = names
        self._violations: list[Violation] = []
        self._unlisted = 0
        self._reason: ErrorReason.ValueType = ErrorReason.FIELD_INVALID
        self._metadata: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Return whether there are violations."""
        return bool(self._violations)

    def add(
        self,
        field: str,
        description: str,
        *,
        reason: ErrorReason.ValueType = ErrorReason.FIELD_INVALID,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Add a violation of *field*; the first *reason* but FIELD_INVALID becomes that of the error."""
        if len(self._violations) < _MAX_LISTED:
            self._violations.append(Violation(self._names(field), description))
        else:
            self._unlisted += 1
        if reason != ErrorReason.FIELD_INVALID and self._reason == ErrorReason.FIELD_INVALID:
            self._reason, self._metadata = reason, dict(metadata or {})

    def check_range(self, field: str, value: float, low: float, high: float) -> bool:
        """Return whether *value* is unset (0) or from *low* to *high*."""
        if value and not low <= value <= high:
            self.add(field, f"must be between {low} and {high}, not {value:g}")
            return False
        return True

    def check_duration(
        self, field: str, value: duration_pb2.Duration, low: timedelta, high: timedelta = _MAX_DURATION
    ) -> bool:
        """Return whether *value* is a duration from *low* to *high*."""
        if abs(value.nanos) > 999_999_999 or value.seconds * value.nanos < 0:
            self.add(field, "is not a valid duration")
            return False
        seconds = value.seconds + value.nanos / 1e9
        if seconds < low.total_seconds():
            self.add(field, f"must be at least {low.total_seconds():g} s, not {seconds:g} s")
            return False
        if seconds > high.total_seconds():
            self.add(field, f"must be at most {high.total_seconds():g} s, not {seconds:g} s")
            return False
        return True

    def check_time(
        self, field: str, value: timestamp_pb2.Timestamp, *, not_before: datetime, not_after: datetime
    ) -> bool:
        """Return whether *value* is a time from *not_before* to *not_after*."""
        try:
            time = value.ToDatetime(UTC)
        except (ValueError, OverflowError):
            self.add(field, "is not a valid time")
            return False
        if time < not_before:
            self.add(field, f"{time.isoformat()} is in the past")
            return False
        if time > not_after:
            self.add(field, f"{time.isoformat()} is too far ahead; the latest is {not_after.isoformat()}")
            return False
        return True

    def raise_if_any(self) -> None:
        """Raise all violations as one error, if there are any."""
        if not self._violations:
            return
        text = "; ".join(f"{each.field}: {each.description}" for each in self._violations[:_MAX_IN_TEXT])
        if (more := len(self._violations) + self._unlisted - _MAX_IN_TEXT) > 0:
            text += f"; and {more} more"
        metadata = self._metadata
        if self._reason == ErrorReason.FIELD_INVALID:
            metadata = {"field": self._violations[0].field}
        raise ReelhaulError(self._reason, text, metadata=metadata, violations=self._violations)
