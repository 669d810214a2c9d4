"""Check of a clock: how far that of another machine is from this one's."""

from __future__ import annotations

from datetime import datetime

from reelhaul_runtime.doctor.check import Finding, ok, problem, warning

_REMEDY = "synchronize the clocks of the machines, for example with chrony"
# Leases and signed links tolerate seconds; S3 refuses requests that are 15 minutes off.
_WARNING_SECONDS, _PROBLEM_SECONDS = 2.0, 30.0


def check_clock(whose: str, time: datetime, start: datetime, end: datetime) -> Finding:
    """Return how far *time*, of the clock of *whose*, read between *start* and *end*, is from this one's."""
    offset = (time - (start + (end - start) / 2)).total_seconds()
    side = "ahead of" if offset > 0 else "behind"
    text = f"the clock of {whose} is {abs(offset):.1f} s {side} this machine's"
    uncertain = (end - start).total_seconds() / 2
    if abs(offset) - uncertain > _PROBLEM_SECONDS:
        return problem(text, _REMEDY)
    if abs(offset) - uncertain > _WARNING_SECONDS:
        return warning(text, _REMEDY)
    return ok(f"the clock of {whose} agrees with this machine's")
