"""WatchJob's messages <-> model."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from google.protobuf import duration_pb2

from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_service_pb2 import (
    JOB_VIEW_BASIC,
    WatchJobRequest,
    WatchJobResponse,
    WatchJobsRequest,
    WatchJobsResponse,
)
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import listing, messages
from reelhaul_jobs.model import wait_reason
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.states import State
from reelhaul_jobs.service.jobs import JobView
from reelhaul_jobs.service.watch.conflating_queue import Changed
from reelhaul_jobs.service.watch.filter_stream import Following, StreamMessage
from reelhaul_jobs.service.watch.messages import Heartbeat, Message, Pace, Snapshot
from reelhaul_runtime.identity import Caller


def pace_of(request: WatchJobRequest) -> Pace:
    """How often the watcher wants to hear; clamped, not refused."""
    progress = _seconds(request.min_interval) if request.HasField("min_interval") else Pace().progress
    return Pace(progress=min(max(progress, 0.05), 60.0), heartbeat=_silence(request))


def _silence(request: WatchJobRequest | WatchJobsRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return Pace().heartbeat
    return min(max(_seconds(request.heartbeat_interval), 1.0), 60.0)


def bytes_of(message: Message) -> bytes:
    """One message of the stream, serialised; once for all who are told it."""
    form = message.forms.get("message")
    if form is None:
        form = message.forms["message"] = proto_of(message).SerializeToString()
    # Serialised messages one after the other are one message with the fields of both.
    return form + _conflated(message.conflated) if message.conflated else form


@lru_cache(maxsize=256)
def _conflated(count: int) -> bytes:
    return WatchJobResponse(conflated_count=count).SerializeToString()


def following_of(request: WatchJobsRequest, who: Caller) -> Following:
    """What the follower asks for. FILTER_INVALID."""
    owner, where = listing.reach_of(request.filter, who)
    return Following(owner=owner, where=where, text=request.filter, heartbeat=_silence(request))


def change_bytes_of(told: StreamMessage) -> bytes:
    """One message of WatchJobs, serialised; its job once for all who are told of it."""
    form = b"" if told.changed is None else told.changed.forms.get("change")
    if form is None and told.changed is not None:
        form = told.changed.forms["change"] = _change(told.changed).SerializeToString()
    head = WatchJobsResponse(sequence=told.sequence, resume_token=told.resume_token, reset=told.reset)
    return head.SerializeToString() + (form or b"")


def _change(changed: Changed) -> WatchJobsResponse:
    job = changed.job
    if job.delete_time is not None:
        return WatchJobsResponse(job=job_pb2.Job(name=job.name), deleted=True)
    shown = messages.proto_of(JobView(job, wait_reason.explain_wait(job)), JOB_VIEW_BASIC)
    return WatchJobsResponse(job=shown)


def proto_of(message: Message) -> WatchJobResponse:
    """One message of the stream, as it is for all who are told it: without conflated_count."""
    made = WatchJobResponse(
        sequence=message.sequence,
        resume_token=message.resume_token,
        event_time=fields.stamp(message.time),
    )
    match message.body:
        case Snapshot() as whole:
            job = messages.proto_of(JobView(whole.job, wait_reason.explain_wait(whole.job)))
            made.snapshot.MergeFrom(
                WatchJobResponse.Snapshot(job=job, reset=whole.reset, terminal=whole.terminal)
            )
        case Event() as event:
            made.state_change.MergeFrom(_state_change(event))
        case Heartbeat():
            made.heartbeat.SetInParent()
        case progress:
            made.progress.MergeFrom(progress)
            made.progress.SetInParent()
    return made


def _state_change(event: Event) -> WatchJobResponse.StateChange:
    return WatchJobResponse.StateChange(
        old_state=cast("job_pb2.Job.State.ValueType", event.old_state or 0),
        state=cast("job_pb2.Job.State.ValueType", event.state),
        attempt_count=event.charged,
        error=messages.error_of(event.state, event.error),
        next_attempt_time=fields.stamp(event.next_attempt_time),
        wait=messages.wait_of(_wait(event)),
    )


def _wait(event: Event) -> wait_reason.Wait | None:
    """What the event alone says of why the job does not run."""
    match event.state:
        case State.RETRYING:
            message = "the last attempt failed; the next one waits for its time"
            return wait_reason.Wait(
                reason=wait_reason.WaitReason.BACKOFF, message=message, until=event.next_attempt_time
            )
        case State.QUEUED if event.old_state is State.RUNNING and event.error is not None:
            return wait_reason.explain_release(event.error)
        case State.QUEUED:
            return wait_reason.Wait(reason=wait_reason.WaitReason.IN_QUEUE, message="waits for a free slot")
        case State.PAUSED:
            return wait_reason.Wait(reason=wait_reason.WaitReason.PAUSED, message="paused by a user")
        case _:
            return None


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
