"""Job templates: what a Job message says of new jobs. Schedules store theirs in this form."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import cast

from google.protobuf import duration_pb2

from reelhaul.jobs.v1 import job_pb2
from reelhaul_jobs.model.job import Expansion, Job, RetryPolicy
from reelhaul_jobs.model.states import Kind, Priority

#: What the names of destinations begin with.
DESTINATIONS = "destinations/"

# A template is no job: the id that it must have means nothing.
_NO_ID = str(uuid.UUID(int=0))


def template_from_proto(
    message: job_pb2.Job, tenant: str, now: datetime, retention: timedelta = timedelta(0)
) -> Job:
    """Return a job without id and points in time as the validated *message* describes it.

    *retention*: how long its jobs are kept after their end unless *message* says.
    """
    policy, expansion = message.retry_policy, message.expansion
    return Job(
        id=_NO_ID,
        tenant=tenant,
        url=message.url,
        format=message.format,
        create_time=now,
        update_time=now,
        priority=Priority(message.priority),
        kind=Kind(message.kind),
        labels=dict(message.labels),
        retry=RetryPolicy(
            max_attempts=policy.max_attempts,
            min_backoff=policy.min_backoff.ToTimedelta(),
            max_backoff=policy.max_backoff.ToTimedelta(),
        ),
        attempt_deadline=message.attempt_deadline.ToTimedelta(),
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else retention,
        deliver_to=message.deliver_to.removeprefix(DESTINATIONS),
        expansion=Expansion(max_entries=expansion.max_entries, new_entries_only=expansion.new_entries_only)
        if message.HasField("expansion")
        else None,
    )


def template_to_proto(template: Job) -> job_pb2.Job:
    """Return the message that describes *template*, with every default set."""
    message = job_pb2.Job(
        url=template.url,
        format=template.format,
        priority=cast("job_pb2.Job.Priority.ValueType", template.priority),
        labels=template.labels,
        retry_policy=retry_policy_to_proto(template.retry),
        attempt_deadline=_to_duration(template.attempt_deadline),
        ttl=_to_duration(template.ttl),
        deliver_to=f"{DESTINATIONS}{template.deliver_to}" if template.deliver_to else "",
        kind=cast("job_pb2.Job.Kind.ValueType", template.kind),
    )
    if template.expansion is not None:
        message.expansion.max_entries = template.expansion.max_entries
        message.expansion.new_entries_only = template.expansion.new_entries_only
    return message


def retry_policy_to_proto(policy: RetryPolicy) -> job_pb2.RetryPolicy:
    """Return the message that describes *policy*."""
    return job_pb2.RetryPolicy(
        max_attempts=policy.max_attempts,
        min_backoff=_to_duration(policy.min_backoff),
        max_backoff=_to_duration(policy.max_backoff),
    )


def _to_duration(value: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(value)
    return duration
