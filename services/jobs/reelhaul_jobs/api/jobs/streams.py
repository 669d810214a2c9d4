"""Conversion of the messages of WatchJob and WatchJobs, serialized once for all watchers."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

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
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.wait_reason import Wait
from reelhaul_jobs.model.watch import Heartbeat, JobChange, Message, Pace, Snapshot, StreamMessage, WatchQuery
from reelhaul_runtime.identity import Caller


def pace_from_request(request: WatchJobRequest) -> Pace:
    """Return how often the watcher wants messages."""
    return clamped_pace(
        fields.to_seconds(request.min_interval) if request.HasField("min_interval") else None,
        fields.to_seconds(request.heartbeat_interval) if request.HasField("heartbeat_interval") else None,
    )


def clamped_pace(progress: float | None, heartbeat: float | None) -> Pace:
    """Return a pace with seconds out of bounds clamped rather than rejected; None: the default."""
    default = Pace()
    return Pace(
        progress=default.progress if progress is None else min(max(progress, 0.05), 60.0),
        heartbeat=default.heartbeat if heartbeat is None else min(max(heartbeat, 1.0), 60.0),
    )


def query_from_request(request: WatchJobsRequest, caller: Caller) -> WatchQuery:
    """Return what the watcher of many jobs asks for. FILTER_INVALID."""
    owner, where = listing.parse_filter(request.filter, caller)
    interval = (
        fields.to_seconds(request.heartbeat_interval) if request.HasField("heartbeat_interval") else None
    )
    heartbeat = clamped_pace(None, interval).heartbeat
    return WatchQuery(owner=owner, where=where, text=request.filter, heartbeat=heartbeat)


def serialize_message(message: Message) -> bytes:
    """Return one serialized WatchJobResponse."""
    content = message.encoded.get("message")
    if content is None:
        content = message.encoded["message"] = message_to_proto(message).SerializeToString()
    # Serialized messages, concatenated, are one message with the fields of both.
    return content + _serialized_conflated(message.conflated) if message.conflated else content


def serialize_stream_message(message: StreamMessage) -> bytes:
    """Return one serialized WatchJobsResponse."""
    head = WatchJobsResponse(
        sequence=message.sequence, resume_token=message.resume_token, reset=message.reset
    ).SerializeToString()
    if (change := message.change) is None:
        return head
    content = change.encoded.get("change")
    if content is None:
        content = change.encoded["change"] = _change_to_proto(change).SerializeToString()
    return head + content


def message_to_proto(message: Message) -> WatchJobResponse:
    """Return one WatchJobResponse, the same for all watchers: without conflated_count."""
    response = WatchJobResponse(
        sequence=message.sequence,
        resume_token=message.resume_token,
        event_time=fields.to_timestamp(message.time),
    )
    match message.body:
        case Snapshot() as snapshot:
            job = messages.job_to_proto(view_of_snapshot(snapshot))
            response.snapshot.MergeFrom(
                WatchJobResponse.Snapshot(job=job, reset=snapshot.reset, terminal=snapshot.terminal)
            )
        case Event() as event:
            response.state_change.MergeFrom(_state_change(event, message.wait))
        case Heartbeat():
            response.heartbeat.SetInParent()
        case progress:
            response.progress.MergeFrom(progress)
            response.progress.SetInParent()
    return response


def view_of_snapshot(snapshot: Snapshot) -> JobView:
    """Return the view that *snapshot* shows."""
    return JobView(snapshot.job, snapshot.wait, children=snapshot.children)


@lru_cache(maxsize=256)
def _serialized_conflated(count: int) -> bytes:
    return WatchJobResponse(conflated_count=count).SerializeToString()


def _change_to_proto(change: JobChange) -> WatchJobsResponse:
    job = change.job
    if job.delete_time is not None:
        return WatchJobsResponse(job=job_pb2.Job(name=job.name), deleted=True)
    return WatchJobsResponse(job=messages.job_to_proto(JobView(job, change.wait), JOB_VIEW_BASIC))


def _state_change(event: Event, wait: Wait | None) -> WatchJobResponse.StateChange:
    return WatchJobResponse.StateChange(
        old_state=cast("job_pb2.Job.State.ValueType", event.old_state or 0),
        state=cast("job_pb2.Job.State.ValueType", event.state),
        attempt_count=event.charged,
        error=messages.visible_error(event.state, event.error),
        next_attempt_time=fields.to_timestamp(event.next_attempt_time),
        wait=messages.wait_to_proto(wait),
    )
