"""The history of a job, from what is recorded of it and its attempts, and its events from now on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from reelhaul.cli.job_status import describe
from reelhaul.cli.output import format_bytes, format_enum
from reelhaul.jobs.v1.job_pb2 import Attempt, Job
from reelhaul.rest import Client

#: When it happened, what, and details for people.
Entry = tuple[datetime, str, str]


def list_history(client: Client, job_id: str, *, is_followed: bool) -> Iterator[Entry]:
    """Yield what happened to a job, oldest first; if it *is_followed*, also its events until it ends."""
    job = client.jobs.get(job_id)
    entries = [*_attempt_entries(client, job_id), *_job_entries(job)]
    yield from sorted(entries, key=lambda entry: entry[0])
    if is_followed and not job.HasField("end_time"):
        for event in client.watch(job_id):
            headline, numbers = describe(event)
            if headline and event.message.HasField("event_time"):
                time = event.message.event_time.ToDatetime(UTC)
                yield time, event.kind, f"{headline}  {numbers}".strip()


def _job_entries(job: Job) -> Iterator[Entry]:
    yield job.create_time.ToDatetime(UTC), "created", job.url
    if job.HasField("recording_stop_time"):
        yield job.recording_stop_time.ToDatetime(UTC), "stop requested", "the recording is kept"
    if job.HasField("end_time"):
        size = sum(artifact.size_bytes for artifact in job.artifacts)
        details = job.error.message or f"{len(job.artifacts)} files, {format_bytes(size)}"
        yield job.end_time.ToDatetime(UTC), format_enum(Job.State.Name(job.state)), details


def _attempt_entries(client: Client, job_id: str) -> Iterator[Entry]:
    for attempt in client.jobs.list_attempts(job_id):
        number = attempt.name.rpartition("/")[2]
        if attempt.HasField("start_time"):
            yield attempt.start_time.ToDatetime(UTC), f"attempt {number}", f"started by {attempt.worker}"
        if attempt.HasField("end_time"):
            state = format_enum(Attempt.State.Name(attempt.state))
            details = attempt.error.message or format_bytes(attempt.downloaded_bytes)
            yield attempt.end_time.ToDatetime(UTC), f"attempt {number}", f"{state}: {details}"
