"""Conversion of the messages of a watch into those of WatchProgress, serialized once for all watchers."""

from __future__ import annotations

from reelhaul.downloads.v1 import download_pb2
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.downloads import responses
from reelhaul_jobs.api.jobs.messages import visible_error
from reelhaul_jobs.api.jobs.streams import view_of_snapshot
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.wait_reason import Wait
from reelhaul_jobs.model.watch import Heartbeat, Message, Snapshot


def serialize_message(job_id: str, message: Message) -> bytes:
    """Return one serialized WatchProgressResponse; empty where another message says the same."""
    content = message.encoded.get("flat")
    if content is None:
        content = message.encoded["flat"] = _serialize(job_id, message)
    return content


def _serialize(job_id: str, message: Message) -> bytes:
    response = _response(message)
    if response is None:
        return b""
    envelope = WatchProgressResponse(
        job_id=job_id, resume_token=message.resume_token, event_time=fields.to_timestamp(message.time)
    )
    # Serialized messages, concatenated, are one message with the fields of both.
    return response.SerializeToString() + envelope.SerializeToString()


def _response(message: Message) -> WatchProgressResponse | None:
    match message.body:
        case Snapshot() as snapshot:
            return _snapshot(snapshot)
        case Event() as event:
            # The terminal state comes with the whole job: completed or failed.
            return (
                None if event.state.is_terminal else WatchProgressResponse(state=_state(event, message.wait))
            )
        case Heartbeat():
            return WatchProgressResponse(heartbeat=WatchProgressResponse.Heartbeat())
        case progress:
            return WatchProgressResponse(progress=_progress(progress, message.wait))


def _snapshot(snapshot: Snapshot) -> WatchProgressResponse:
    download = responses.download(view_of_snapshot(snapshot))
    if not snapshot.terminal:
        return WatchProgressResponse(snapshot=download)
    if download.status == download_pb2.Download.SUCCEEDED:
        return WatchProgressResponse(completed=download)
    return WatchProgressResponse(failed=download)


def _progress(progress: media_pb2.Progress, wait: Wait | None) -> WatchProgressResponse.Progress:
    message = WatchProgressResponse.Progress(
        stage=progress.stage,
        downloaded_bytes=progress.downloaded_bytes,
        detail=progress.detail,
        wait_reason=responses.wait_reason_name(wait),
        job_counts=progress.job_counts,
    )
    if progress.HasField("percent"):
        message.progress_percent = progress.percent
    if progress.HasField("total_bytes"):
        message.total_bytes = progress.total_bytes
    if progress.bytes_per_second:
        message.speed = progress.bytes_per_second
    if progress.HasField("eta"):
        message.eta_seconds = fields.to_seconds(progress.eta)
    return message


def _state(event: Event, wait: Wait | None) -> WatchProgressResponse.State:
    message = WatchProgressResponse.State(
        old_status=responses.status_of(event.old_state),
        status=responses.status_of(event.state),
        attempts=event.charged,
        wait_reason=responses.wait_reason_name(wait),
        retry_time=fields.to_timestamp(event.next_attempt_time),
    )
    if (error := visible_error(event.state, event.error)) is not None:
        message.error.CopyFrom(responses.error_from_status(error))
    return message
