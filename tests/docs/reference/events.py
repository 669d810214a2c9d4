"""docs/events.md: what streams and webhooks send, from the protos and the types of events."""

from __future__ import annotations

import re

from tests.docs.reference.markdown import heading, table
from tests.docs.reference.protos import Protos

from reelhaul_jobs.model import webhook

_INTRODUCTION = """
A client learns of changes in three ways: it watches one job, it watches all jobs that match a filter, or it
is called by a webhook. All report the same changes, in the same order for each job.
[gateway.md](gateway.md#streams) describes the formats of streams over HTTP (NDJSON, server-sent events,
WebSocket), [webhooks.md](webhooks.md) delivery, signatures and retries.
"""
_STREAMS = (
    (
        "One job, in the simple form",
        "`GET /api/v1/progress/{job_id}`, `DownloadService.WatchProgress`",
        "reelhaul.downloads.v1.WatchProgressResponse",
    ),
    (
        "One job",
        "`GET /v1/jobs/{job}:watch`, `JobService.WatchJob`",
        "reelhaul.jobs.v1.WatchJobResponse",
    ),
    (
        "All jobs that match a filter",
        "`GET /v1/jobs:watch?filter=…`, `JobService.WatchJobs`",
        "reelhaul.jobs.v1.WatchJobsResponse",
    ),
)
#: When an event of a webhook happens, and what its data is.
_MEANINGS = {
    "batch.finished": "the last job of a batch or a playlist has ended; again if jobs of it were retried",
    "job.cancelled": "a user cancelled the job, and its worker has stopped",
    "job.failed": "the job failed for good",
    "job.paused": "a user paused the job",
    "job.retrying": "an attempt failed, and another one follows",
    "job.succeeded": "the files of the job can be fetched",
    "schedule.failed": "a run could not create its job; the fifth in a row disables the schedule",
    "webhook.test": "a user asked for it; it has no data",
}


def page() -> str:
    """Return docs/events.md."""
    protos = Protos.load()
    parts = [heading("Events", "protos/ and reelhaul_jobs.model.webhook", _INTRODUCTION)]
    for title, routes, name in _STREAMS:
        parts.append(f"## {title}\n\n{routes}\n")
        parts.append(_message(protos, name, 3))
    parts.append("## Webhooks\n\nA webhook may select types, and groups of them such as `job.*`.\n")
    rows = [(f"`{kind}`", _MEANINGS[kind]) for kind in sorted(webhook.EVENT_TYPES)]
    parts.append(table(("type", "when"), rows))
    parts.append("The body of a request is an event, as proto3 JSON:\n")
    parts.append(_message(protos, "reelhaul.jobs.v1.Event", 3))
    return "\n".join(parts)


def _message(protos: Protos, name: str, level: int) -> str:
    """Describe a message, and those nested in it."""
    message = protos.messages[name]
    title = re.sub(r"^[a-z0-9.]+\.", "", name)
    parts = [f"{'#' * level} {title}\n"]
    if comment := protos.comment(name):
        parts.append(f"{comment}\n")
    rows = [
        (
            f"`{field.name}`",
            f"`{protos.describe_type(message, field)}`",
            protos.comment(f"{name}.{field.name}"),
        )
        for field in message.descriptor.field
    ]
    if rows:
        parts.append(table(("field", "type", "meaning"), rows))
    nested = [each for each in protos.messages if each.startswith(f"{name}.")]
    return "\n".join([*parts, *(_message(protos, each, level + 1) for each in nested)])
