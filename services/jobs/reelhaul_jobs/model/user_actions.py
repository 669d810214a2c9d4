"""Actions of a user on an existing job: pause, resume, stop its recording, update."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_jobs.model import transition
from reelhaul_jobs.model.job import AttemptOutcome, Job
from reelhaul_jobs.model.states import AttemptState, Priority, QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_runtime.errors import StateConflict

_PAUSABLE = frozenset({State.QUEUED, State.RETRYING, State.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """New values of fields; only those named in ``paths`` are changed."""

    paths: frozenset[str]
    priority: Priority = Priority.NORMAL
    labels: dict[str, str] | None = None
    schedule_time: datetime | None = None
    expire_time: datetime | None = None
    ttl: timedelta | None = None


def pause(job: Job, now: datetime) -> Transition:
    """Pause *job*; no change if it is paused already.

    A worker that has its lease loses it: the epoch fences its later calls. Raises STATE_CONFLICT.
    """
    if job.state is State.PAUSED:
        return transition.no_change(job)
    if job.state not in _PAUSABLE:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: nothing to pause")
    if job.state is not State.RUNNING:
        return Transition(
            before=job, job=job.transition(State.PAUSED, now, queue_stage=QueueStage.IDLE, due=None)
        )
    paused = job.transition(
        State.PAUSED, now, queue_stage=QueueStage.IDLE, due=None, charged=max(0, job.charged - 1)
    )
    return Transition(before=job, job=paused, attempt_outcome=AttemptOutcome(state=AttemptState.RELEASED))


def resume(job: Job, now: datetime) -> Transition:
    """Queue a PAUSED *job* for its next attempt; no change if it is active. Raises STATE_CONFLICT."""
    if job.state in _PAUSABLE:
        return transition.no_change(job)
    if job.state is not State.PAUSED:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: nothing to resume")
    queued = job.transition(
        State.QUEUED, now, attempt=job.attempt + 1, **_queue_fields(job, job.schedule_time, now)
    )
    return Transition(before=job, job=queued)


def stop_recording(job: Job, now: datetime) -> Transition:
    """Stop the recording of *job* and keep it; no change if that was requested before.

    The request stays with the job: if its worker is lost, the next one is told as well. Raises
    STATE_CONFLICT unless the job is recording.
    """
    if job.recording_stop_time is not None:
        return transition.no_change(job)
    stage = job.progress.stage if job.progress else Progress.STAGE_UNSPECIFIED
    if job.state is State.RUNNING and stage == Progress.RECORDING:
        return Transition(before=job, job=job.bump(now, recording_stop_time=now))
    raise StateConflict(job.name, job.state.name, f"{job.name} {_why_not_recording(job.state)}")


def _why_not_recording(state: State) -> str:
    if state.is_terminal:
        return f"is {state.name}: it is not recording any more"
    return f"is {state.name} and not recording now; CancelJob ends it without a file"


def update(job: Job, update: Update, now: datetime) -> Transition:
    """Apply *update* to *job*; no change if all values are the same.

    Raises STATE_CONFLICT for the priority and schedule_time of a job that has ended, and for the
    schedule_time of one whose attempt has started.
    """
    fields: dict[str, Any] = _retention_fields(job, update)
    if "priority" in update.paths:
        fields |= _priority_fields(job, update.priority)
    if "schedule_time" in update.paths:
        fields |= _schedule_fields(job.replace_fields(**fields), update.schedule_time, now)
    unchanged = all(getattr(job, name) == value for name, value in fields.items())
    return transition.no_change(job) if unchanged else Transition(before=job, job=job.bump(now, **fields))


def _retention_fields(job: Job, update: Update) -> dict[str, Any]:
    """Return the changes of labels, expire_time and ttl, which are allowed in every state."""
    fields: dict[str, Any] = {}
    if "labels" in update.paths:
        fields["labels"] = update.labels or {}
    if "expire_time" in update.paths:
        fields["expire_time"] = update.expire_time
    if "ttl" in update.paths and update.ttl is not None:
        fields["ttl"] = update.ttl
        fields["expire_time"] = job.end_time + update.ttl if job.end_time else None
    if job.state.is_terminal and "expire_time" in fields:
        fields["expire_time"] = fields["expire_time"] or (job.end_time or job.create_time) + job.ttl
        if job.artifacts and fields["expire_time"] != job.expire_time:
            # The artifacts expire with the job: storage is told until it knows.
            fields["confirm_time"] = job.end_time
    return fields


def _priority_fields(job: Job, priority: Priority) -> dict[str, Any]:
    if job.state.is_terminal and priority is not job.priority:
        raise StateConflict(
            job.name, job.state.name, f"{job.name} is {job.state.name}: too late to set its priority"
        )
    if job.queue_stage is not QueueStage.READY or job.due is None:
        return {"priority": priority}
    waits_since = job.due + job.priority_offset(job.priority)
    return {"priority": priority, "due": waits_since - job.priority_offset(priority)}


def _schedule_fields(job: Job, time: datetime | None, now: datetime) -> dict[str, Any]:
    if time == job.schedule_time:
        return {}
    if job.state is State.PAUSED:
        return {"schedule_time": time}
    if job.state is State.RETRYING and job.due is not None:
        return {"schedule_time": time, "due": max(job.due, time or job.due)}
    if job.state is not State.QUEUED:
        raise StateConflict(
            job.name, job.state.name, f"{job.name} is {job.state.name}: too late to set its schedule_time"
        )
    # As its next attempt: a worker may have the work item of the current one.
    return {"schedule_time": time, "attempt": job.attempt + 1, **_queue_fields(job, time, now)}


def _queue_fields(job: Job, not_before: datetime | None, now: datetime) -> dict[str, Any]:
    """Return the queue stage and due time of a job that enters the queue."""
    if not_before is not None and not_before > now:
        return {"queue_stage": QueueStage.LATER, "due": not_before}
    return {"queue_stage": QueueStage.READY, "due": job.rank(job.create_time)}
