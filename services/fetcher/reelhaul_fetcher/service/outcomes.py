"""How attempts end that do not succeed, in the words of jobs."""

from __future__ import annotations

import logging
from datetime import timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_runtime.errors import ReelhaulError, to_status

log = logging.getLogger(__name__)

Finish = lease_service_pb2.FinishRequest
Released = Finish.Released

# Between two looks at an event that has not begun.
_SHORTEST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=6)
_UNTOLD_WAIT = timedelta(minutes=1)
# Another worker may have space; this one takes nothing while it has none.
_SPACE_WAIT = timedelta(seconds=15)
# Until a recording that found no room is tried again, here or elsewhere.
_ROOM_WAIT = timedelta(seconds=10)


def drained() -> Finish:
    """Back to the queue: the worker leaves."""
    return Finish(released=Released(reason=Released.DRAIN))


def released_for_disk() -> Finish:
    """Back to the queue: the worker is short of space, through no fault of the job."""
    released = Released(reason=Released.DISK)
    released.retry_delay.FromTimedelta(_SPACE_WAIT)
    return Finish(released=released)


def recorders_busy() -> Finish:
    """Back to the queue: the worker records as much as it may."""
    released = Released(reason=Released.RECORDERS_BUSY)
    released.retry_delay.FromTimedelta(_ROOM_WAIT)
    return Finish(released=released)


def released_as_failure(released: Released) -> Finish:
    """What *released* is to a fetch that no queue can bring again: a failure that says what to do."""
    reason, text = _UNQUEUED.get(
        released.reason, (ErrorReason.WORKER_LOST, "the worker gave it up: try again")
    )
    wait = released.retry_delay.ToTimedelta() if released.HasField("retry_delay") else None
    return Finish(failed=Finish.Failed(status=to_status(ReelhaulError(reason, text, retry_delay=wait))))


_UNQUEUED: dict[Released.Reason.ValueType, tuple[ErrorReason.ValueType, str]] = {
    Released.DRAIN: (ErrorReason.OVERLOADED, "the worker was drained before it ended: try another one"),
    Released.DISK: (ErrorReason.WORKER_DISK_FULL, "the worker's disk is full"),
    Released.RECORDERS_BUSY: (ErrorReason.OVERLOADED, "the worker records as much as it may"),
}


def too_large_for_worker(job: str, worker: str) -> Finish:
    """A failure that another worker may spare the job: it wants more space than there is here."""
    error = ReelhaulError(ErrorReason.WORKER_DISK_FULL, "the job wants more space than the worker has")
    return failed(error, job, worker)


def failed(error: BaseException, job: str, worker: str) -> Finish:
    """The failure that *error* is; what nobody foresaw is a bug of ours."""
    if not isinstance(error, ReelhaulError):
        log.error("unexpected failure of a fetch", extra={"job": job}, exc_info=error)
        text = f"a bug in the worker ({type(error).__name__}); its log tells more"
        error = ReelhaulError(ErrorReason.INTERNAL_ERROR, text, metadata={"requestId": job})
    no_space = error.reason == ErrorReason.WORKER_DISK_FULL
    if no_space:
        error.metadata["worker"] = worker
    hint = lease_pb2.RetryHint(avoid_worker=no_space)
    if error.retry_delay is not None:
        hint.retry_delay.FromTimedelta(error.retry_delay)
    told = {"job": job, "reason": ErrorReason.Name(error.reason), "cause": error.text}
    log.info("fetch failed", extra=told)
    return Finish(failed=Finish.Failed(status=to_status(error), retry_hint=hint))


def explain_lost_recording(error: BaseException, lease: lease_pb2.Lease) -> BaseException:
    """*error*; where the user ended the recording under an earlier lease, no event is waited for any more."""
    announced = isinstance(error, ReelhaulError) and error.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    if not (lease.spec.recording_stopped and announced):
        return error
    text = f"its recording was lost with the worker that had it, and nothing is on air now: {error}"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)


def release_until_live(error: BaseException, lease: lease_pb2.Lease) -> Finish | None:
    """Back to the queue until an announced event begins, where that is to be waited for."""
    if not isinstance(error, ReelhaulError) or error.reason != ErrorReason.MEDIA_NOT_LIVE_YET:
        return None
    if lease.spec.format.live.mode != FormatSpec.Live.WAIT:
        return None
    # Events are put off, and brought forward: it is looked at again from time to time.
    wait = error.retry_delay if error.retry_delay is not None else _UNTOLD_WAIT
    released = Released(reason=Released.LIVE_NOT_BEGUN)
    released.retry_delay.FromTimedelta(min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT))
    return Finish(released=released)
