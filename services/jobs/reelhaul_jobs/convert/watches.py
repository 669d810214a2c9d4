"""WatchJob's messages <-> model."""

from __future__ import annotations

from typing import cast

from google.protobuf import duration_pb2

from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_service_pb2 import WatchJobRequest, WatchJobResponse
from reelhaul_jobs.convert import jobs, names
from reelhaul_jobs.model import waits
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.service.jobs import Seen
from reelhaul_jobs.service.watching.messages import Heartbeat, Message, Pace, Snapshot


def pace_of(request: WatchJobRequest) -> Pace:
    """How often the watcher wants to hear; clamped, not refused."""
    pace = Pace()
    progress = _seconds(request.min_interval) if request.HasField("min_interval") else pace.progress
    silence = _seconds(request.heartbeat_interval) if request.HasField("heartbeat_interval") else None
    return Pace(
        progress=min(max(progress, 0.05), 60.0),
        heartbeat=min(max(silence if silence is not None else pace.heartbeat, 1.0), 60.0),
    )


def proto_of(message: Message) -> WatchJobResponse:
    """One message of the stream."""
    made = WatchJobResponse(
        sequence=message.sequence,
        resume_token=message.resume_token,
        event_time=names.stamp(message.time),
        conflated_count=message.conflated,
    )
    match message.body:
        case Snapshot() as whole:
            job = jobs.proto_of(Seen(whole.job, waits.wait_of(whole.job)))
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
        error=jobs.error_of(event.state, event.error),
        next_attempt_time=names.stamp(event.next_attempt_time),
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
