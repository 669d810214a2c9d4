"""Conversion of jobs, files, errors, estimates and counts into flat responses."""

from __future__ import annotations

from collections.abc import Mapping

from google.rpc import status_pb2

from reelhaul import qualities
from reelhaul.downloads.v1 import download_pb2, download_service_pb2
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.downloads import choices
from reelhaul_jobs.api.downloads.requests import QUEUED_STATES, RUNNING_STATES, list_arguments
from reelhaul_jobs.api.jobs.listing import next_token
from reelhaul_jobs.api.jobs.messages import expire_time_of, visible_error
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Summary
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import DeliveryState, Kind, State
from reelhaul_jobs.model.wait_reason import Wait
from reelhaul_jobs.ports.jobs import KeptJob, Page, Query
from reelhaul_runtime import errors
from reelhaul_runtime.page_tokens import PageTokens


def download(view: JobView) -> download_pb2.Download:
    """Return a job as a Download."""
    job = view.job
    got = job.got or media_pb2.DeliveredMedia()
    message = download_pb2.Download(
        job_id=job.id,
        url=job.url,
        status=status_of(job.state),
        quality=requested_quality(job.format),
        format=requested_format(job.format),
        got_quality=quality_of(got.width, got.height),
        got_format=got.container,
        attempts=job.charged,
        wait_reason=wait_reason_name(view.wait),
        position=view.wait.position if view.wait else 0,
        priority=choices.PRIORITY_WORDS.get(job.priority, ""),
        # None costs less than what is empty.
        labels=job.labels or None,
        batch_id=job.batch_id,
        job_count=job.expansion.job_count if job.expansion else 0,
        deliver_to=job.deliver_to,
        files=_files(job) if job.artifacts else None,
        warnings=[warning.message for warning in job.warnings] if job.warnings else None,
        schedule_time=fields.to_timestamp(job.schedule_time),
        create_time=fields.to_timestamp(job.create_time),
        start_time=fields.to_timestamp(job.start_time),
        end_time=fields.to_timestamp(job.end_time),
        expire_time=fields.to_timestamp(expire_time_of(job)),
        retry_time=fields.to_timestamp(job.next_attempt_time),
    )
    if (error := visible_error(job.state, job.error)) is not None:
        message.error.CopyFrom(error_from_status(error))
    if view.estimate is not None:
        message.estimate.CopyFrom(estimate(view.estimate, job.format))
    if job.media is not None:
        _set_media(job.media, message)
    _set_progress(job, message)
    return message


def error_from_status(status: status_pb2.Status) -> download_pb2.Error:
    """Return why a job failed, or why a request was rejected."""
    error = errors.from_status(status)
    return download_pb2.Error(
        code=status.code,
        reason=ErrorReason.Name(error.reason),
        message=status.message,
        retryable=error.retryable,
        help=error.help_url,
    )


def estimate(message: media_pb2.Estimate, spec: FormatSpec) -> download_pb2.Estimate:
    """Return what a download of *spec* would fetch and deliver."""
    tallest = max(
        message.formats,
        key=lambda each: qualities.count_lines(each.width, each.height),
        default=media_pb2.Format(),
    )
    containers = [each.container for each in message.formats]
    flat = download_pb2.Estimate(
        quality=quality_of(tallest.width, tallest.height),
        format=requested_format(spec) or (containers[0] if containers else ""),
        job_count=message.job_count,
        stored=message.stored,
        warnings=[warning.message for warning in message.warnings],
    )
    if message.HasField("size_bytes"):
        flat.size_bytes = message.size_bytes
    if message.HasField("fetch_duration"):
        flat.fetch_seconds = fields.to_seconds(message.fetch_duration)
    return flat


def serialize_list(
    request: download_service_pb2.ListDownloadsRequest,
    query: Query,
    page: Page[JobView | KeptJob],
    tokens: PageTokens,
    messages: KeptMessages,
) -> bytes:
    """Return *page* as a serialized ListDownloadsResponse, with fewer jobs where they would be too large."""
    jobs, sent = messages.serialize_list(page.jobs, fields.MAX_RESPONSE_BYTES)
    response = download_service_pb2.ListDownloadsResponse(
        next_page_token=next_token(tokens, list_arguments(request, query.tenant), query, page, sent),
        total=page.total,
        page=0 if request.page_token else max(request.page, 1),
    )
    # Serialized messages, concatenated, are one message with the fields of both.
    return jobs + response.SerializeToString()


def stats_response(past: Summary, active: Summary) -> download_service_pb2.GetStatsResponse:
    """Return the counts over time, and of what waits and runs now."""
    total = past.total
    response = download_service_pb2.GetStatsResponse(
        total=sum(total.states.values()),
        by_status={state.name: count for state, count in total.states.items()},
        by_error=total.errors,
        downloaded_bytes=total.downloaded_bytes,
        queued_now=_count(active.total.states, QUEUED_STATES),
        running_now=_count(active.total.states, RUNNING_STATES),
    )
    succeeded = total.states.get(State.SUCCEEDED, 0)
    if ended := succeeded + total.states.get(State.FAILED, 0):
        response.success_ratio = succeeded / ended
    if total.latency_p50 is not None and total.latency_p95 is not None:
        response.median_seconds = total.latency_p50.total_seconds()
        response.p95_seconds = total.latency_p95.total_seconds()
    return response


def status_of(state: State | None) -> download_pb2.Download.Status.ValueType:
    """Return the Status of a job in *state*; they have the same numbers."""
    return download_pb2.Download.Status.ValueType(state or 0)


def requested_quality(spec: FormatSpec) -> str:
    """Return the word for the quality that *spec* asks for."""
    if spec.smallest:
        return choices.WORST
    return f"{spec.max_height}p" if spec.max_height else choices.BEST


def requested_format(spec: FormatSpec) -> str:
    """Return the word for the format that *spec* asks for; empty where it leaves that open."""
    if word := choices.CONTAINER_WORDS.get(spec.container):
        return word
    return choices.AUDIO_FORMAT_WORDS.get(spec.audio.format, "")


def quality_of(width: int, height: int) -> str:
    """Return the lines of a picture, e.g. "800p", of a portrait its columns; empty without a picture."""
    lines = min(width, height) if width and height else height
    return f"{lines}p" if lines else ""


def wait_reason_name(wait: Wait | None) -> str:
    """Return the name of why a job does not run; empty where it does not wait."""
    return wait.reason.name if wait else ""


def _files(job: Job) -> list[download_pb2.File]:
    """Return the result files with their deliveries."""
    files = [_file(artifact) for artifact in job.artifacts]
    # Deliveries are in the order of the artifacts.
    for file, delivery in zip(files, job.deliveries, strict=False):
        file.delivery.status = delivery.state.name
        file.delivery.uri = delivery.uri
        file.delivery.attempts = delivery.attempt_count
        if delivery.error is not None:
            file.delivery.error.CopyFrom(error_from_status(delivery.error))
        if delivery.state is DeliveryState.PENDING and delivery.due is not None:
            file.delivery.retry_time.FromDatetime(delivery.due)
    return files


def _file(artifact: media_pb2.ArtifactInfo) -> download_pb2.File:
    """Return a result file, with the URL to GET it from."""
    return download_pb2.File(
        name=artifact.file_name,
        kind=artifact.kind,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.checksums.sha256.hex(),
        url=f"/v1/{artifact.name}:download",
        language=artifact.language_code,
    )


def _set_media(media: media_pb2.MediaInfo, message: download_pb2.Download) -> None:
    message.title = media.title
    message.uploader = media.uploader
    message.thumbnail = media.thumbnail_url
    if media.HasField("duration"):
        message.duration = fields.to_seconds(media.duration)


def _set_progress(job: Job, message: download_pb2.Download) -> None:
    progress = job.progress or media_pb2.Progress()
    if job.kind is Kind.EXPANSION and progress.job_counts:
        _set_children_progress(progress, message)
        return
    if job.state is State.SUCCEEDED:
        message.progress_percent = 100
    if job.state in QUEUED_STATES:
        # What the last attempt received says nothing about the next one.
        return
    if progress.HasField("percent") and job.state is not State.SUCCEEDED:
        message.progress_percent = progress.percent
    message.downloaded_bytes = progress.downloaded_bytes
    if progress.HasField("total_bytes"):
        message.total_bytes = progress.total_bytes
    if job.state is State.RUNNING:
        message.stage, message.detail = progress.stage, progress.detail
        if progress.bytes_per_second:
            message.speed = progress.bytes_per_second
        if progress.HasField("eta"):
            message.eta_seconds = fields.to_seconds(progress.eta)


def _set_children_progress(progress: media_pb2.Progress, message: download_pb2.Download) -> None:
    """Set the progress of a playlist: over its jobs, also when all of them are created."""
    message.job_counts.update(progress.job_counts)
    message.stage = progress.stage
    if progress.HasField("percent"):
        message.progress_percent = progress.percent
    message.downloaded_bytes = progress.downloaded_bytes
    if progress.bytes_per_second:
        message.speed = progress.bytes_per_second


def _count(counts: Mapping[State, int], states: tuple[State, ...]) -> int:
    return sum(counts.get(state, 0) for state in states)
