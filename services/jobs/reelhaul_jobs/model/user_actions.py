"""Pause, resume, end a recording, update: what a user may change of a job that is there already."""

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
    """What a user wants to be otherwise; ``paths`` names which of the fields are meant."""

    paths: frozenset[str]
    priority: Priority = Priority.NORMAL
    labels: dict[str, str] | None = None
    schedule_time: datetime | None = None
    expire_time: datetime | None = None
    ttl: timedelta | None = None


def pause(job: Job, now: datetime) -> Transition:
    """*job* held until it is resumed; as it is, where it is held already.

    A worker that has it lost its lease with this: the epoch refuses what it says later.
    """
    if job.state is State.PAUSED:
        return transition.no_change(job)
    if job.state not in _PAUSABLE:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: nothing to pause")
    if job.state is not State.RUNNING:
        return Transition(
            before=job, job=job.transition(State.PAUSED, now, queue_stage=QueueStage.IDLE, due=None)
        )
    held = job.transition(
        State.PAUSED, now, queue_stage=QueueStage.IDLE, due=None, charged=max(0, job.charged - 1)
    )
    return Transition(before=job, job=held, attempt_outcome=AttemptOutcome(state=AttemptState.RELEASED))


def resume(job: Job, now: datetime) -> Transition:
    """A PAUSED *job* queued as its next attempt; as it is, where it goes on already."""
    if job.state in _PAUSABLE:
        return transition.no_change(job)
    if job.state is not State.PAUSED:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: nothing to resume")
    after = job.transition(
        State.QUEUED, now, attempt=job.attempt + 1, **_queue_fields(job, job.schedule_time, now)
    )
    return Transition(before=job, job=after)


def stop_recording(job: Job, now: datetime) -> Transition:
    """*job* whose recording is to end, with what there is as its file; as it is, where that was asked before.

    The wish stays with the job: who takes it up after its worker was lost is told as well.
    """
    if job.recording_stop_time is not None:
        return transition.no_change(job)
    stage = job.progress.stage if job.progress else Progress.STAGE_UNSPECIFIED
    if job.state is State.RUNNING and stage == Progress.RECORDING:
        return Transition(before=job, job=job.bump(now, recording_stop_time=now))
    raise StateConflict(job.name, job.state.name, f"{job.name} {_why_no_recording(job.state)}")


def _why_no_recording(state: State) -> str:
    if state.is_terminal:
        return f"is {state.name}: its recording, if it was one, is over"
    return f"is {state.name} and records nothing now; CancelJob ends it without a file"


def update(job: Job, update: Update, now: datetime) -> Transition:
    """*job* with what *update* says; as it is, where that is so already.

    STATE_CONFLICT: more than labels and expiration of a terminal job; the time of one
    whose attempt has begun.
    """
    fields: dict[str, Any] = _retention_fields(job, update)
    if "priority" in update.paths:
        fields |= _priority_fields(job, update.priority)
    if "schedule_time" in update.paths:
        fields |= _schedule_fields(job.replace_fields(**fields), update.schedule_time, now)
    after = job.bump(now, **fields)
    same = all(getattr(job, name) == value for name, value in fields.items())
    return transition.no_change(job) if same else Transition(before=job, job=after)


def _retention_fields(job: Job, update: Update) -> dict[str, Any]:
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
            # Storage keeps them until then; it is told until it has heard.
            fields["confirm_time"] = job.end_time
    return fields


def _priority_fields(job: Job, priority: Priority) -> dict[str, Any]:
    if job.state.is_terminal and priority is not job.priority:
        raise StateConflict(job.name, job.state.name, f"{job.name} is {job.state.name}: it waits no more")
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
            job.name, job.state.name, f"{job.name} is {job.state.name}: too late to set its time"
        )
    # As its next attempt: the present one may be with a worker already.
    return {"schedule_time": time, "attempt": job.attempt + 1, **_queue_fields(job, time, now)}


def _queue_fields(job: Job, not_before: datetime | None, now: datetime) -> dict[str, Any]:
    """Lane and due of a job that goes into the queue."""
    if not_before is not None and not_before > now:
        return {"queue_stage": QueueStage.LATER, "due": not_before}
    return {"queue_stage": QueueStage.READY, "due": job.rank(job.create_time)}
