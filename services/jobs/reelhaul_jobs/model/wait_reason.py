"""Why a job does not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_jobs.model.job import Event, Job
from reelhaul_jobs.model.rate_limit import SiteLimits, SiteStatus, free_slots, next_opening
from reelhaul_jobs.model.retries import error_reason
from reelhaul_jobs.model.states import QueueStage, State

# Tolerance of renewals, which are due every third of the lease, and of the age of the latest progress.
_LATENESS = timedelta(seconds=1)
_NO_END = datetime.max.replace(tzinfo=UTC)


class Shortage(IntEnum):
    """Why a worker takes no work although it has free slots; numbered as WorkerNotice.Shortage."""

    NONE = 0
    #: Disk space.
    DISK = 1
    #: Every egress has used up its bytes of the day.
    EGRESS = 2


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A live worker: its slots and its shortage, and until when that lasts if it is known."""

    worker: str
    slots: int
    shortage: Shortage = Shortage.NONE
    until: datetime | None = None


def find_shortage(workers: Sequence[WorkerStatus], slots: int) -> WorkerStatus | None:
    """Return the worker whose shortage ends first if all of them have one, else None.

    *slots* are those of all live workers, including workers that report no status.
    """
    if not workers or not all(worker.shortage for worker in workers):
        return None
    if sum(worker.slots for worker in workers) < slots:
        return None
    # A shortage of disk space may end at any moment.
    return min(workers, key=lambda worker: (worker.shortage, worker.until or _NO_END))


class WaitReason(IntEnum):
    """Why a job waits; numbered as Wait.Reason."""

    SCHEDULED = 1
    IN_QUEUE = 2
    BACKOFF = 3
    SITE_BUSY = 4
    SITE_PARKED = 5
    QUOTA = 6
    PAUSED = 7
    NO_WORKER = 8
    DISK_FULL = 9
    LIVE_NOT_BEGUN = 10
    EGRESS_SPENT = 12
    WORKER_LOST = 13


# Why a job waits that its worker released with this error.
_RELEASED: Mapping[int | None, tuple[WaitReason, str]] = {
    ErrorReason.WORKER_DISK_FULL: (WaitReason.DISK_FULL, "its worker is short of disk space"),
    ErrorReason.MEDIA_NOT_LIVE_YET: (WaitReason.LIVE_NOT_BEGUN, "the event has not started"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why a job waits, at least until when, and its position in the queue (0: unknown)."""

    reason: WaitReason
    message: str
    position: int = 0
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class WorkerAvailability:
    """Whether any worker is alive, and the shortage if none of them takes work."""

    any_alive: bool = True
    shortage: WorkerStatus | None = None


def explain_wait(
    job: Job,
    *,
    position: int = 0,
    workers: WorkerAvailability = WorkerAvailability(),
    site: Wait | None = None,
    quota: Wait | None = None,
) -> Wait | None:
    """Return why *job* does not run; None if it runs or has ended.

    *position* in the queue counts from 1, 0 if it is unknown; *site* is why its site admits no job now,
    *quota* that its key or tenant has as many running jobs as it may.
    """
    match job.state:
        case State.RETRYING:
            message = "the last attempt failed; the next one waits for its back-off"
            return Wait(reason=WaitReason.BACKOFF, message=message, until=job.due)
        case State.PAUSED:
            return Wait(reason=WaitReason.PAUSED, message="paused by a user")
        case State.QUEUED if job.queue_stage is QueueStage.LATER:
            return _explain_later(job)
        case State.QUEUED if not workers.any_alive:
            return Wait(reason=WaitReason.NO_WORKER, message="no fetcher is running", position=position)
        case State.QUEUED if quota is not None and job.queue_stage is QueueStage.READY:
            return replace(quota, position=position)
        case State.QUEUED if site is not None and job.queue_stage is QueueStage.READY:
            return replace(site, position=position)
        case State.QUEUED if workers.shortage is not None:
            return _explain_shortage(workers.shortage, position)
        case State.QUEUED:
            return Wait(reason=WaitReason.IN_QUEUE, message="waits for a free slot", position=position)
        case _:
            return None


def _explain_shortage(worker: WorkerStatus, position: int) -> Wait:
    if worker.shortage is Shortage.DISK:
        message = "the fetchers are short of disk space"
        return Wait(reason=WaitReason.DISK_FULL, message=message, position=position)
    message = "every egress has used up its bytes of the day"
    return Wait(reason=WaitReason.EGRESS_SPENT, message=message, position=position, until=worker.until)


def _explain_later(job: Job) -> Wait:
    """Return why *job* does not start before its ``due``: its schedule_time, or its worker released it."""
    if job.due == job.schedule_time:
        return Wait(reason=WaitReason.SCHEDULED, message="scheduled for later", until=job.due)
    return explain_release(job.error, job.due)


def explain_release(error: status_pb2.Status | None, until: datetime | None = None) -> Wait:
    """Return why a job waits that its worker released because of *error*."""
    cause = error_reason(error) if error is not None else None
    reason, message = _RELEASED.get(cause, (WaitReason.IN_QUEUE, "waits for a free slot"))
    return Wait(reason=reason, message=message, until=until)


def reason_of_release(error: str) -> WaitReason:
    """Return why a job waits that its worker released with *error*, the name of a reason or empty."""
    known = ErrorReason.Value(error) if error in ErrorReason.keys() else None
    return _RELEASED.get(known, (WaitReason.IN_QUEUE, ""))[0]


def explain_event(event: Event) -> Wait | None:
    """Return why the job does not run, as far as *event* shows it."""
    match event.state:
        case State.RETRYING:
            message = "the last attempt failed; the next one waits for its time"
            return Wait(reason=WaitReason.BACKOFF, message=message, until=event.next_attempt_time)
        case State.QUEUED if event.old_state is State.RUNNING and event.error is not None:
            return explain_release(event.error)
        case State.QUEUED:
            return Wait(reason=WaitReason.IN_QUEUE, message="waits for a free slot")
        case State.PAUSED:
            return Wait(reason=WaitReason.PAUSED, message="paused by a user")
        case _:
            return None


def explain_lost_worker(
    job: Job, progress_age: timedelta | None, lease: timedelta, now: datetime
) -> Wait | None:
    """Return WORKER_LOST if the worker of *job* has not renewed its *lease* in time; None if it has.

    *progress_age* is the time since its last progress; None: it sent none. A worker renews every third of the
    lease, so that a lost worker is detected before its lease ends.
    """
    if not job.is_leased or job.due is None:
        return None
    overdue = now - (job.due - lease) > lease / 3 + _LATENESS
    if not overdue or (progress_age is not None and progress_age < _LATENESS):
        return None
    message = f"the worker {job.worker} does not answer; the next attempt starts after its lease ends"
    return Wait(reason=WaitReason.WORKER_LOST, message=message, until=job.due)


def progress_of_lost_worker(progress: Progress | None, wait: Wait) -> Progress:
    """Return *progress* for a job whose worker is lost: waiting, without a rate and a remaining time."""
    result = Progress()
    if progress is not None:
        result.CopyFrom(progress)
    result.stage, result.bytes_per_second = Progress.WAITING, 0
    result.ClearField("eta")
    result.detail = f"{wait.reason.name}: {wait.message}"
    return result


def explain_quota_wait(account: str, limit: int) -> Wait:
    """Return that a job waits because *account*, a key or a tenant, has *limit* running jobs."""
    return Wait(reason=WaitReason.QUOTA, message=f"{account} is at its limit of {limit} running jobs")


def explain_site_wait(status: SiteStatus, limits: SiteLimits, now: datetime) -> Wait | None:
    """Return why no job of the site may start now; None if one may."""
    if free_slots(status, limits, now) > 0:
        return None
    until = next_opening(status, now)
    parked = [limit for limit in status.rate_limits if limit.is_parked]
    if parked and len(parked) == len(status.rate_limits):
        reasons = "; ".join(sorted({limit.reason for limit in parked}))
        message = f"{status.site} blocks us ({reasons}); single jobs probe it until it serves us again"
        return Wait(reason=WaitReason.SITE_PARKED, message=message, until=until)
    max_running = limits.max_running_at(status.site)
    if status.published + status.leased >= max_running:
        message = f"{status.site} is at its limit of {max_running} running jobs"
        return Wait(reason=WaitReason.SITE_BUSY, message=message)
    message = f"the delay between two downloads from {status.site} has not passed"
    return Wait(reason=WaitReason.SITE_BUSY, message=message, until=until)
