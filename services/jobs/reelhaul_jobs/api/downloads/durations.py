"""Lengths of time: the flat API's seconds, and protobuf's Duration."""

from __future__ import annotations

import math

from google.protobuf import duration_pb2

from reelhaul_runtime.validation.violations import FieldViolations

_LONGEST_SECONDS = 3660 * 86400.0


def seconds(value: float, into: duration_pb2.Duration, field: str, findings: FieldViolations) -> None:
    """Write *value* seconds to *into*; what is no length of time is a finding."""
    if not math.isfinite(value) or not 0 <= value <= _LONGEST_SECONDS:
        findings.add(field, f"{value:g} is no number of seconds")
        return
    into.FromNanoseconds(round(value * 1e6) * 1000)


def of(duration: duration_pb2.Duration) -> float:
    """*duration* in seconds."""
    return duration.seconds + duration.nanos / 1e9
