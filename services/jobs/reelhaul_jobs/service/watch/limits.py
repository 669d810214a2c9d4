"""Time limits of watch streams, and the error that ends one."""

from __future__ import annotations

from datetime import timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

#: How long events are kept: a watcher that resumes later starts from a snapshot.
EVENT_RETENTION = timedelta(hours=24)

#: Just under the method policy's 12 h, so that a stream ends with UNAVAILABLE, not DEADLINE_EXCEEDED.
MAX_STREAM_SECONDS = 12 * 3600 - 30.0

#: Seconds between two reads of the rows that find changes whose notification was lost.
REREAD_SECONDS = 5.0


#: Seconds between two refreshes of the views of watched jobs: wait reasons, lost workers, and the progress of
#: expansions, which rows do not record. The pause is at least the duration of a refresh times the ratio.
VIEW_REFRESH_SECONDS = 1.0
VIEW_REFRESH_PAUSE_RATIO = 4.0


def stream_ended() -> ReelhaulError:
    """Return the error that ends a stream which is not over: UNAVAILABLE, to be resumed."""
    return ReelhaulError(
        ErrorReason.OVERLOADED,
        "this stream ends here; resume it with its resume_token",
        retry_delay=timedelta(milliseconds=200),
    )
