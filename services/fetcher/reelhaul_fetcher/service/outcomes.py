"""Outcomes: the Finish requests of attempts that do not succeed."""

from __future__ import annotations

import logging
from datetime import timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_runtime.errors import ReelhaulError, to_status
from reelhaul_runtime.redaction import redact_paths

log = logging.getLogger(__name__)

Finish = lease_service_pb2.FinishRequest
Released = Finish.Released

# Between two looks at a live event that has not begun.
_MIN_LIVE_DELAY, _MAX_LIVE_DELAY = timedelta(seconds=5), timedelta(hours=6)
# If the site does not say when it begins.
_DEFAULT_LIVE_DELAY = timedelta(minutes=1)
# Another worker may have space; this one takes no work while it has none.
_DISK_DELAY = timedelta(seconds=15)
# Until a recording that found all recorders busy is tried again, on any worker.
_RECORDERS_DELAY = timedelta(seconds=10)


def cancelled() -> Finish:
    """End the job as cancelled by its user."""
    return Finish(cancelled=Finish.Cancelled())


def released_for_drain() -> Finish:
    """Requeue the job: the worker shuts down."""
    return Finish(released=Released(reason=Released.DRAIN))


def released_for_disk() -> Finish:
    """Requeue the job: the worker's disk is full, through no fault of the job."""
    return _released(Released.DISK, _DISK_DELAY)


def released_for_recorders() -> Finish:
    """Requeue the job: the worker records as many live streams as it may."""
    return _released(Released.RECORDERS_BUSY, _RECORDERS_DELAY)


def released_until_live(error: BaseException, lease: lease_pb2.Lease) -> Finish | None:
    """Requeue the job until the announced live event begins; None unless *error* and the spec say so."""
    if not isinstance(error, ReelhaulError) or error.reason != ErrorReason.MEDIA_NOT_LIVE_YET:
        return None
    if lease.spec.format.live.mode != FormatSpec.Live.WAIT:
        return None
    # Events are postponed and brought forward, so even a distant one is checked from time to time.
    delay = error.retry_delay if error.retry_delay is not None else _DEFAULT_LIVE_DELAY
    return _released(Released.LIVE_NOT_BEGUN, min(max(delay, _MIN_LIVE_DELAY), _MAX_LIVE_DELAY))


def released_as_failure(released: Released) -> Finish:
    """Return *released* as the failure of a fetch that no queue can retry; its text says what to do."""
    reason, text = _DIRECT_FAILURES.get(
        released.reason, (ErrorReason.WORKER_LOST, "the worker gave it up: try again")
    )
    delay = released.retry_delay.ToTimedelta() if released.HasField("retry_delay") else None
    return Finish(failed=Finish.Failed(status=to_status(ReelhaulError(reason, text, retry_delay=delay))))


_DIRECT_FAILURES: dict[Released.Reason.ValueType, tuple[ErrorReason.ValueType, str]] = {
    Released.DRAIN: (
        ErrorReason.OVERLOADED,
        "the worker was drained before the fetch ended: try another worker",
    ),
    Released.DISK: (ErrorReason.WORKER_DISK_FULL, "the worker's disk is full"),
    Released.RECORDERS_BUSY: (
        ErrorReason.OVERLOADED,
        "the worker records as many live streams as it may: try another worker, or later",
    ),
}


def failed_too_large(job: str, worker: str) -> Finish:
    """Fail the attempt, to be retried elsewhere: the job needs more space than this worker has."""
    error = ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the job needs more disk space than the worker has")
    return failed(error, job, worker)


def failed(error: BaseException, job: str, worker: str) -> Finish:
    """Fail the attempt with *error*; anything but a ReelhaulError is a bug of ours."""
    if not isinstance(error, ReelhaulError):
        log.error("unexpected failure of a fetch", extra={"job": job}, exc_info=error)
        text = f"a bug in the worker ({type(error).__name__}); see its log"
        error = ReelhaulError(ErrorReason.INTERNAL_ERROR, text, metadata={"requestId": job})
    error.text = redact_paths(error.text)
    disk_full = error.reason == ErrorReason.WORKER_DISK_FULL
    if disk_full:
        error.metadata["worker"] = worker
    hint = lease_pb2.RetryHint(avoid_worker=disk_full)
    if error.retry_delay is not None:
        hint.retry_delay.FromTimedelta(error.retry_delay)
    fields = {"job": job, "reason": ErrorReason.Name(error.reason), "cause": error.text}
    log.info("fetch failed", extra=fields)
    return Finish(failed=Finish.Failed(status=to_status(error), retry_hint=hint))


def explain_lost_recording(error: BaseException, lease: lease_pb2.Lease) -> BaseException:
    """Return *error*, or RECORDING_LOST if the user ended the recording under an earlier lease.

    A stopped recording does not wait for the next event.
    """
    not_live = isinstance(error, ReelhaulError) and error.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    if not (lease.spec.recording_stopped and not_live):
        return error
    text = f"the recording was lost with the worker that had it, and the stream is not live now: {error}"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)


def _released(reason: Released.Reason.ValueType, delay: timedelta) -> Finish:
    released = Released(reason=reason)
    released.retry_delay.FromTimedelta(delay)
    return Finish(released=released)
