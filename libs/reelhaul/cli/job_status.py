"""The status of jobs in words: names, headlines, numbers, reasons."""

from __future__ import annotations

from collections.abc import Mapping

from reelhaul.cli.output import format_bytes, format_duration, format_enum, printable
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event
from reelhaul.type.v1.media_pb2 import Progress

_ENDED = (Download.SUCCEEDED, Download.FAILED, Download.CANCELLED)


def has_ended(job: Download) -> bool:
    """Return whether the status of *job* is final."""
    return job.status in _ENDED


def status_name(job: Download) -> str:
    """Return the name of the status; RUNNING for one that this client does not know."""
    if job.status and job.status in Download.Status.values():
        return Download.Status.Name(job.status)
    return "RUNNING"


def job_title(job: Download) -> str:
    """Return the title of *job*, or its URL until that is known."""
    return printable(job.title or job.url)


def describe_job(job: Download) -> str:
    """Return what *job* does now, or waits for."""
    unfinished = [each.delivery for each in job.files if each.delivery.status in ("PENDING", "RUNNING")]
    if unfinished:
        message = next((each.error.message for each in unfinished if each.error.message), "")
        return printable(f"delivering to {job.deliver_to}" + (f" ({message})" if message else ""))
    is_busy = job.status == Download.RUNNING or job.job_counts
    if is_busy and job.stage and not job.wait_reason:
        return _describe_stage(job)
    position = f", {job.position} in line" if job.position else ""
    reason = f" ({format_enum(job.wait_reason)}{position})" if job.wait_reason else ""
    return format_enum(status_name(job)) + reason


def describe_error(job: Download) -> str:
    """Return why *job* failed, or waits: reason and message; empty if it does neither."""
    if job.HasField("error"):
        return f"{job.error.reason}: {job.error.message}"
    return format_enum(job.wait_reason)


def describe(event: Event) -> tuple[str, str]:
    """Return a headline and the numbers of *event* for people; either may be empty."""
    message = event.message
    match event.kind:
        case "snapshot":
            return describe_job(message.snapshot), format_progress(message.snapshot)
        case "progress":
            return _describe_progress(message.progress), format_progress(message.progress)
        case "state":
            return _describe_state(message.state), ""
        case "completed":
            return "succeeded", ""
        case "failed":
            return format_enum(status_name(message.failed)), ""
        case "reconnecting":
            return "reconnecting", ""
    return "", ""


def format_progress(progress: Download | WatchProgressResponse.Progress, *, with_percent: bool = True) -> str:
    """Return percentage, bytes, speed and time left, as far as they are known."""
    parts = []
    if progress.HasField("progress_percent") and with_percent:
        parts.append(f"{progress.progress_percent:.0f}%")
    if progress.job_counts:
        parts.append(_format_counts(progress.job_counts))
    if progress.HasField("total_bytes"):
        parts.append(f"{format_bytes(progress.downloaded_bytes)} of {format_bytes(progress.total_bytes)}")
    elif progress.downloaded_bytes:
        parts.append(format_bytes(progress.downloaded_bytes))
    parts.append(format_rate(progress))
    return "  ".join(filter(None, parts))


def format_rate(progress: Download | WatchProgressResponse.Progress) -> str:
    """Return speed and time left, as far as they are known."""
    parts = [f"{format_bytes(progress.speed)}/s"] if progress.speed else []
    if progress.HasField("eta_seconds"):
        parts.append(f"{format_duration(progress.eta_seconds)} left")
    return "  ".join(parts)


def _format_counts(counts: Mapping[str, int]) -> str:
    """Return how many jobs of a playlist have succeeded and failed."""
    text = f"{counts.get('SUCCEEDED', 0)} of {sum(counts.values())} jobs"
    failed = counts.get("FAILED", 0)
    return f"{text}, {failed} failed" if failed else text


def _describe_progress(progress: WatchProgressResponse.Progress) -> str:
    if progress.wait_reason:
        return f"{format_enum(Progress.Stage.Name(progress.stage))} ({format_enum(progress.wait_reason)})"
    return _describe_stage(progress)


def _describe_stage(message: Download | WatchProgressResponse.Progress) -> str:
    # The detail of an upload says why it waits for storage.
    waits = message.stage == Progress.UPLOADING and message.detail
    return format_enum(Progress.Stage.Name(message.stage)) + (
        f" ({printable(message.detail)})" if waits else ""
    )


def _describe_state(state: WatchProgressResponse.State) -> str:
    text = format_enum(status_name(Download(status=state.status)))
    if state.error.reason:
        text += f" after {state.error.reason}: {printable(state.error.message)}"
    elif state.wait_reason:
        text += f" ({format_enum(state.wait_reason)})"
    return text
