"""Events that have not begun, and when they will."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000}
_IN = re.compile(rf"\bin (?:(\d+)|an?|a few) ({'|'.join(_UNITS)}|moment)s?", re.IGNORECASE)


def not_yet(start: datetime | None, text: str) -> ReelhaulError:
    """MEDIA_NOT_LIVE_YET, with the time to wait; *start* is read out of *text* where it is None."""
    now = datetime.now(UTC)
    if start is None and (wait := _wait(text)) is not None:
        start = now + wait
    told = start.strftime("%Y-%m-%dT%H:%M:%SZ") if start else ""
    delay = max(start - now, timedelta()) if start else None
    return ReelhaulError(
        ErrorReason.MEDIA_NOT_LIVE_YET, text[:500], metadata={"startTime": told}, retry_delay=delay
    )


def _wait(text: str) -> timedelta | None:
    """How long *text* says that it will be, e.g. "in 2 hours"; None where it does not."""
    found = _IN.search(text)
    if found is None or found[2].lower() == "moment":
        return None
    return timedelta(seconds=min(int(found[1] or 1), 1000) * _UNITS[found[2].lower()])
