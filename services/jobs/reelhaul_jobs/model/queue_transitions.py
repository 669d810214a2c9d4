"""Transitions of a job outside of a lease: into the queue, within it, and out of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import retries, transition
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import RETRY_TRANSITIONS, Kind, QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_runtime.errors import ReelhaulError, StateConflict


def enqueue(job: Job) -> Job:
    """Return a new *job* in its first queue stage: LATER until its schedule_time, else READY."""
    if job.schedule_time is not None and job.schedule_time > job.create_time:
        return job.replace_fields(queue_stage=QueueStage.LATER, due=job.schedule_time)
    return job.replace_fields(queue_stage=QueueStage.READY, due=job.rank(job.create_time))


def requeue(
    job: Job,
    now: datetime,
    *,
    delay: timedelta = timedelta(0),
    since: datetime | None = None,
    **fields: Any,
) -> Job:
    """Return *job* queued for its next attempt, which may start after *delay*.

    It ranks like a job that waits *since* that time; by default since it was created.
    """
    stage, due = QueueStage.READY, job.rank(since or job.create_time)
    if delay > timedelta(0):
        stage, due = QueueStage.LATER, now + delay
    return job.transition(State.QUEUED, now, attempt=job.attempt + 1, queue_stage=stage, due=due, **fields)


def make_ready(job: Job, now: datetime) -> Transition:
    """Make *job* ready if it waited for a time that has come."""
    if job.queue_stage is not QueueStage.LATER or job.due is None or job.due > now:
        return transition.no_change(job)
    rank = job.rank(job.due)
    if job.state is State.RETRYING:
        return Transition(
            before=job, job=job.transition(State.QUEUED, now, queue_stage=QueueStage.READY, due=rank)
        )
    return Transition(before=job, job=job.bump(now, queue_stage=QueueStage.READY, due=rank))


def republish(job: Job, now: datetime) -> Transition:
    """Make a published *job* ready again because its work item is lost.

    It gets the next attempt number: JetStream would discard the same one as a duplicate.
    """
    if job.queue_stage is not QueueStage.PUBLISHED:
        return transition.no_change(job)
    rank = job.rank(job.create_time)
    return Transition(
        before=job,
        job=job.bump(now, attempt=job.attempt + 1, queue_stage=QueueStage.READY, due=rank),
    )


def cancel(job: Job, now: datetime, reason: str = "") -> Transition:
    """Cancel *job*; a RUNNING one becomes CANCELLING until its worker stops.

    An expansion cancels its jobs with it, even if it has ended itself. No change if *job* is cancelled
    already. Raises STATE_CONFLICT if it ended otherwise.
    """
    if job.state in (State.CANCELLING, State.CANCELLED):
        return transition.no_change(job)
    if job.state.is_terminal and job.kind is Kind.EXPANSION:
        return Transition(before=job, job=job.replace_fields(cascade_time=now))
    if job.state.is_terminal:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: too late to cancel")
    error = retries.error_status(ErrorReason.JOB_CANCELLED, reason or "cancelled by a user")
    cascade_time = now if job.kind is Kind.EXPANSION else None
    if job.state is State.RUNNING:
        cancelled = job.transition(State.CANCELLING, now, error=error, cascade_time=cascade_time)
    else:
        cancelled = job.end(State.CANCELLED, now, error=error, cascade_time=cascade_time)
    return Transition(before=job, job=cancelled)


def complete_cancel(job: Job, now: datetime) -> Job:
    """Return a CANCELLING *job* as CANCELLED: its worker has stopped."""
    return job.end(State.CANCELLED, now)


def retry(job: Job, now: datetime) -> Transition:
    """Queue a FAILED or CANCELLED *job* again, with a new series of attempts.

    Raises STATE_CONFLICT for any other state.
    """
    if job.state not in RETRY_TRANSITIONS:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: nothing to retry")
    queued = job.transition(
        State.QUEUED,
        now,
        RETRY_TRANSITIONS,
        attempt=job.attempt + 1,
        charged=0,
        failures={},
        queue_stage=QueueStage.READY,
        due=job.rank(now),
        end_time=None,
        # Its user's own expiry stays; the one that was derived from its end does not.
        expire_time=None if job.end_time and job.expire_time == job.end_time + job.ttl else job.expire_time,
        error=None,
        progress=None,
        recording_stop_time=None,
        cascade_time=None,
    )
    return Transition(before=job, job=queued)


def check_etag(job: Job, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or that of *job*."""
    if etag and etag != job.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{job.name} has changed since: read it again",
            metadata={"resource": job.name, "etag": job.etag},
        )


def delete(job: Job, now: datetime) -> Transition:
    """Delete *job* for its callers; one that has not ended is cancelled first."""
    ended = job if job.state.is_terminal else cancel(job, now, "deleted by a user").job
    return Transition(before=job, job=ended.bump(now, delete_time=now, confirm_time=now, delivery_time=None))


def cancel_child(job: Job, parent: Job, now: datetime) -> Transition:
    """Cancel *job* because the expansion that created it was cancelled; no change if it has ended."""
    if job.state.is_terminal:
        return transition.no_change(job)
    return cancel(job, now, f"cancelled with {parent.name}")


def complete_cascade(job: Job, since: datetime | None) -> Transition:
    """Record that the jobs of an expansion are cancelled, as requested at *since*."""
    if job.cascade_time is None or job.cascade_time != since:
        return transition.no_change(job)
    return Transition(before=job, job=job.replace_fields(cascade_time=None))


def expire(job: Job, now: datetime) -> Transition:
    """Delete *job* if it has ended and its expire_time has passed."""
    if not job.state.is_terminal or job.delete_time is not None:
        return transition.no_change(job)
    if job.expire_time is None or job.expire_time > now:
        return transition.no_change(job)
    return delete(job, now)
