"""Messages of WatchJob as WatchProgress tells them."""

from __future__ import annotations

from reelhaul.downloads.v1 import download_pb2 as flat
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.jobs.v1 import job_pb2
from reelhaul.jobs.v1.job_service_pb2 import WatchJobResponse
from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.api.downloads import responses
from reelhaul_jobs.api.downloads.durations import of
from reelhaul_jobs.api.jobs import streams
from reelhaul_jobs.service.watch.messages import Message

_TERMINAL = (job_pb2.Job.SUCCEEDED, job_pb2.Job.FAILED, job_pb2.Job.CANCELLED)


def bytes_of(job_id: str, message: Message) -> bytes:
    """*message* flat and serialised, once for all who are told it; empty where another one says the same."""
    form = message.forms.get("flat")
    if form is None:
        form = message.forms["flat"] = _flat(job_id, streams.proto_of(message))
    return form


def _flat(job_id: str, message: WatchJobResponse) -> bytes:
    told = _told(message)
    if told is None:
        return b""
    told.job_id = job_id.removeprefix("jobs/")
    told.resume_token = message.resume_token
    if message.HasField("event_time"):
        told.event_time.CopyFrom(message.event_time)
    return told.SerializeToString()


def _told(message: WatchJobResponse) -> WatchProgressResponse | None:
    """*message*, flat; None where another message says the same."""
    match message.WhichOneof("event"):
        case "snapshot":
            return _snapshot(message.snapshot)
        case "progress":
            return WatchProgressResponse(progress=_progress(message.progress))
        case "state_change":
            # The last state comes with its whole job: completed or failed.
            ends = message.state_change.state in _TERMINAL
            return None if ends else WatchProgressResponse(state=_state(message.state_change))
    return WatchProgressResponse(heartbeat=WatchProgressResponse.Heartbeat())


def _snapshot(snapshot: WatchJobResponse.Snapshot) -> WatchProgressResponse:
    job = responses.download(snapshot.job)
    if not snapshot.terminal:
        return WatchProgressResponse(snapshot=job)
    if job.status == flat.Download.SUCCEEDED:
        return WatchProgressResponse(completed=job)
    return WatchProgressResponse(failed=job)


def _progress(progress: media_pb2.Progress) -> WatchProgressResponse.Progress:
    told = WatchProgressResponse.Progress(
        stage=progress.stage, downloaded_bytes=progress.downloaded_bytes, detail=progress.detail
    )
    if progress.HasField("percent"):
        told.progress_percent = progress.percent
    if progress.HasField("total_bytes"):
        told.total_bytes = progress.total_bytes
    if progress.bytes_per_second:
        told.speed = progress.bytes_per_second
    if progress.HasField("eta"):
        told.eta_seconds = of(progress.eta)
    return told


def _state(change: WatchJobResponse.StateChange) -> WatchProgressResponse.State:
    told = WatchProgressResponse.State(
        old_status=flat.Download.Status.ValueType(change.old_state),
        status=flat.Download.Status.ValueType(change.state),
        attempts=change.attempt_count,
        wait_reason=responses.wait_reason(change.wait),
    )
    if change.HasField("error"):
        told.error.CopyFrom(responses.error(change.error))
    if change.HasField("next_attempt_time"):
        told.retry_time.CopyFrom(change.next_attempt_time)
    return told
