"""Why a job does not run: the answer to "why is nothing happening"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteStatus, free_slots, next_opening
from reelhaul_jobs.model.retries import error_reason
from reelhaul_jobs.model.states import QueueStage, State

_NO_END = datetime.max.replace(tzinfo=UTC)


class Shortage(IntEnum):
    """Why a worker takes no work though it has free slots; numbered as WorkerNotice.Shortage."""

    NONE = 0
    #: Of disk space.
    DISK = 1
    #: Each of its egresses has carried what it may today.
    EGRESS = 2


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker lives: its slots, and what it is short of, until when if that can be told."""

    worker: str
    slots: int
    shortage: Shortage = Shortage.NONE
    until: datetime | None = None


def find_shortage(present: Sequence[WorkerStatus], slots: int) -> WorkerStatus | None:
    """Whose shortage ends first, where every worker has one; None where one takes work.

    *slots* are those of all live workers: also of such as say nothing of themselves.
    """
    if not present or not all(each.shortage for each in present):
        return None
    if sum(each.slots for each in present) < slots:
        return None
    # Space may be there at any moment.
    return min(present, key=lambda each: (each.shortage, each.until or _NO_END))


class WaitReason(IntEnum):
    """Why; numbered as Wait.Reason."""

    SCHEDULED = 1
    IN_QUEUE = 2
    BACKOFF = 3
    SITE_BUSY = 4
    SITE_PARKED = 5
    PAUSED = 7
    NO_WORKER = 8
    DISK_FULL = 9
    LIVE_NOT_STARTED = 10
    EGRESS_EXHAUSTED = 12


# What a job says whose worker handed it back for this.
_HANDED_BACK: Mapping[int | None, tuple[WaitReason, str]] = {
    ErrorReason.WORKER_DISK_FULL: (WaitReason.DISK_FULL, "its worker ran short of disk space"),
    ErrorReason.MEDIA_NOT_LIVE_YET: (
        WaitReason.LIVE_NOT_STARTED,
        "the event has not begun",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why, for how long at least, and how many are before it (0: not told)."""

    reason: WaitReason
    message: str
    position: int = 0
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class WorkerAvailability:
    """The workers: whether any lives, and the shortage for which none takes work."""

    any_alive: bool = True
    shortage: WorkerStatus | None = None


def explain_wait(
    job: Job,
    *,
    position: int = 0,
    workers: WorkerAvailability = WorkerAvailability(),
    site: Wait | None = None,
) -> Wait | None:
    """Why *job* does not run; None where it runs or has ended.

    *place* counts from 1 where it is known; *site* is what its site says, if it lets
    nobody in now.
    """
    match job.state:
        case State.RETRYING:
            message = "the last attempt failed; the next one waits for its time"
            return Wait(reason=WaitReason.BACKOFF, message=message, until=job.due)
        case State.PAUSED:
            return Wait(reason=WaitReason.PAUSED, message="paused by a user")
        case State.QUEUED if job.queue_stage is QueueStage.LATER:
            return _later(job)
        case State.QUEUED if not workers.any_alive:
            return Wait(reason=WaitReason.NO_WORKER, message="no fetcher is running", position=position)
        case State.QUEUED if site is not None and job.queue_stage is QueueStage.READY:
            return replace(site, position=position)
        case State.QUEUED if workers.shortage is not None:
            return _short(workers.shortage, position)
        case State.QUEUED:
            return Wait(reason=WaitReason.IN_QUEUE, message="waits for a free slot", position=position)
        case _:
            return None


def _short(worker: WorkerStatus, place: int) -> Wait:
    """Why no worker takes work, of which *worker* is the first that will again."""
    if worker.shortage is Shortage.DISK:
        return Wait(
            reason=WaitReason.DISK_FULL, message="the fetchers are short of disk space", position=place
        )
    message = "every egress has carried the bytes that it may today"
    return Wait(reason=WaitReason.EGRESS_EXHAUSTED, message=message, position=place, until=worker.until)


def _later(job: Job) -> Wait:
    """Why *job* is not to start before its ``due``: its user said so, or the worker that handed it back."""
    if job.due == job.schedule_time:
        return Wait(reason=WaitReason.SCHEDULED, message="its time has not come", until=job.due)
    return explain_release(job.error, job.due)


def explain_release(error: status_pb2.Status | None, until: datetime | None = None) -> Wait:
    """Why a job waits whose worker gave it back because of *error*."""
    cause = error_reason(error) if error is not None else None
    reason, message = _HANDED_BACK.get(cause, (WaitReason.IN_QUEUE, "waits for a free slot"))
    return Wait(reason=reason, message=message, until=until)


def explain_site_wait(site: SiteStatus, limits: SiteLimits, now: datetime) -> Wait | None:
    """Why no job of *site* may start now; None if one may."""
    if free_slots(site, limits, now) > 0:
        return None
    until = next_opening(site, now)
    parked = [gate for gate in site.rate_limits if gate.is_parked]
    if parked and len(parked) == len(site.rate_limits):
        refused = "; ".join(sorted({gate.reason for gate in parked}))
        message = f"{site.site} refuses us ({refused}); one job asks it again from time to time"
        return Wait(reason=WaitReason.SITE_PARKED, message=message, until=until)
    if site.published + site.leased >= limits.max_running_at(site.site):
        message = f"{site.site} has {limits.max_running_at(site.site)} jobs in hand: as many as it may"
        return Wait(reason=WaitReason.SITE_BUSY, message=message)
    return Wait(reason=WaitReason.SITE_BUSY, message=f"{site.site} is asked at a polite pace", until=until)
