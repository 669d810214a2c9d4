"""Jobs as the flat API tells of them."""

from __future__ import annotations

from google.rpc import status_pb2

from reelhaul.downloads.v1 import download_pb2 as flat
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api.downloads import choices
from reelhaul_jobs.api.downloads.durations import of
from reelhaul_runtime import errors

_Status = flat.Download.Status
# While these, what the last attempt received is not how far the job is.
_NOT_BEGUN = (job_pb2.Job.QUEUED, job_pb2.Job.RETRYING)
_TIMES = ("schedule_time", "create_time", "start_time", "end_time", "expire_time")


def download(job: job_pb2.Job) -> flat.Download:
    """*job*, flat."""
    told = flat.Download(
        job_id=job.name.removeprefix("jobs/"),
        url=job.url,
        status=_Status.ValueType(job.state),
        quality=asked_quality(job.format),
        format=asked_format(job.format),
        got_quality=quality_of(job.got.width, job.got.height),
        got_format=job.got.container,
        attempts=job.attempt_count,
        priority=choices.word_of(job.priority, choices.PRIORITIES),
        labels=job.labels,
        batch_id=job.batch_id,
        job_count=job.expansion.job_count,
        files=[file(artifact) for artifact in job.artifacts],
        warnings=[warning.message for warning in job.warnings],
    )
    for field, value in job.ListFields():
        if field.name in _TIMES:
            getattr(told, field.name).CopyFrom(value)
    if job.HasField("next_attempt_time"):
        told.retry_time.CopyFrom(job.next_attempt_time)
    if job.HasField("error"):
        told.error.CopyFrom(error(job.error))
    if job.HasField("estimate"):
        told.estimate.CopyFrom(estimate(job.estimate, job.format))
    _tell_wait(job, told)
    _tell_media(job.media, told)
    _tell_progress(job, told)
    return told


def created(job: job_pb2.Job, asked: job_service_pb2.CreateJobRequest) -> flat.Download:
    """*job*, flat; where it was only looked at there is none, and so no id."""
    told = download(job)
    if asked.validate_only:
        told.job_id = ""
    return told


def file(artifact: media_pb2.ArtifactInfo) -> flat.File:
    """A result file, with where to GET it."""
    return flat.File(
        name=artifact.file_name,
        kind=artifact.kind,
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.checksums.sha256.hex(),
        url=f"/v1/{artifact.name}:download",
        language=artifact.language_code,
    )


def error(status: status_pb2.Status) -> flat.Error:
    """Why a job failed."""
    failure = errors.from_status(status)
    return flat.Error(
        code=status.code,
        reason=ErrorReason.Name(failure.reason),
        message=status.message,
        retryable=failure.retryable,
        help=failure.help_url,
    )


def estimate(forecast: media_pb2.Estimate, asked: FormatSpec) -> flat.Estimate:
    """What a download would fetch and deliver."""
    tallest = max(forecast.formats, key=lambda one: one.height, default=media_pb2.Format())
    containers = [one.container for one in forecast.formats]
    told = flat.Estimate(
        quality=quality_of(tallest.width, tallest.height),
        format=asked_format(asked) or (containers[0] if containers else ""),
        job_count=forecast.job_count,
        stored=forecast.stored,
        warnings=[warning.message for warning in forecast.warnings],
    )
    if forecast.HasField("size_bytes"):
        told.size_bytes = forecast.size_bytes
    if forecast.HasField("fetch_duration"):
        told.fetch_seconds = of(forecast.fetch_duration)
    return told


def asked_quality(spec: FormatSpec) -> str:
    """The word for the quality that *spec* asks for."""
    if spec.smallest:
        return choices.WORST
    return f"{spec.max_height}p" if spec.max_height else choices.BEST


def asked_format(spec: FormatSpec) -> str:
    """The word for the format that *spec* asks for; empty where it is left open."""
    return choices.word_of(spec.container, choices.CONTAINERS) or choices.word_of(
        spec.audio.format, choices.AUDIO_FORMATS
    )


def quality_of(width: int, height: int) -> str:
    """Quality as people count it, e.g. "720p": a portrait by its shorter side. Empty without picture."""
    lines = min(width, height) if width and height else height
    return f"{lines}p" if lines else ""


def _tell_wait(job: job_pb2.Job, told: flat.Download) -> None:
    told.wait_reason = wait_reason(job.wait)
    told.position = job.wait.position


def wait_reason(wait: job_pb2.Wait) -> str:
    """Why a job does not run, by name; empty where nothing is told."""
    return job_pb2.Wait.Reason.Name(wait.reason) if wait.reason in job_pb2.Wait.Reason.values()[1:] else ""


def _tell_media(media: media_pb2.MediaInfo, told: flat.Download) -> None:
    told.title = media.title
    told.uploader = media.uploader
    told.thumbnail = media.thumbnail_url
    if media.HasField("duration"):
        told.duration = of(media.duration)


def _tell_progress(job: job_pb2.Job, told: flat.Download) -> None:
    progress = job.progress
    if job.state == job_pb2.Job.SUCCEEDED:
        told.progress_percent = 100
    elif progress.HasField("percent") and job.state not in _NOT_BEGUN:
        told.progress_percent = progress.percent
    if job.state not in _NOT_BEGUN:
        told.downloaded_bytes = progress.downloaded_bytes
        if progress.HasField("total_bytes"):
            told.total_bytes = progress.total_bytes
    if job.state == job_pb2.Job.RUNNING:
        told.stage = progress.stage
        if progress.bytes_per_second:
            told.speed = progress.bytes_per_second
        if progress.HasField("eta"):
            told.eta_seconds = of(progress.eta)
