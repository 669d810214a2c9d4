"""JobService's messages <-> model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import cast

from google.protobuf.message import Message
from google.rpc import status_pb2

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.model import ids, wait_reason
from reelhaul_jobs.model.job import Attempt, Expansion, Job, RetryPolicy
from reelhaul_jobs.model.states import Kind, Priority, State
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.service.jobs import JobView

_SHOW_ERROR = frozenset({State.RETRYING, State.FAILED, State.CANCELLING, State.CANCELLED})


def job_of(
    asked: job_pb2.Job,
    job_id: str,
    tenant: str,
    now: datetime,
    traceparent: str,
    retention: timedelta,
) -> Job:
    """A new job as admission let it pass; *job_id* empty: one is made.

    *retention* is how long it is kept after its end where its caller does not say.
    """
    policy = asked.retry_policy
    new = fields.new_id(job_id) if job_id else ids.new_id(now)
    expansion = asked.expansion if asked.HasField("expansion") else None
    return Job(
        id=new,
        tenant=tenant,
        url=asked.url,
        format=asked.format,
        create_time=now,
        update_time=now,
        priority=Priority(asked.priority),
        kind=Kind(asked.kind),
        labels=dict(asked.labels),
        schedule_time=fields.time(asked.schedule_time) if asked.HasField("schedule_time") else None,
        retry=RetryPolicy(
            max_attempts=policy.max_attempts,
            min_backoff=policy.min_backoff.ToTimedelta(),
            max_backoff=policy.max_backoff.ToTimedelta(),
        ),
        attempt_deadline=asked.attempt_deadline.ToTimedelta(),
        ttl=asked.ttl.ToTimedelta() if asked.HasField("ttl") else retention,
        expire_time=fields.time(asked.expire_time) if asked.HasField("expire_time") else None,
        traceparent=traceparent[:64],
        # What it expands to is found, and may be cancelled, together.
        batch_id=new if expansion else "",
        expansion=Expansion(max_entries=expansion.max_entries, new_entries_only=expansion.new_entries_only)
        if expansion
        else None,
    )


def request_of(request: Message, method: str, tenant: str, now: datetime) -> IdempotencyKey | None:
    """What makes the call idempotent; None where the caller asked for no protection.

    *request* is one of those that have a request_id.
    """
    request_id = fields.request_id(request.request_id)  # type: ignore[attr-defined]
    if not request_id:
        return None
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
    return IdempotencyKey(tenant, method, request_id, digest, now)


def proto_of(
    seen: JobView, view: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL
) -> job_pb2.Job:
    """What callers see of a job."""
    job = seen.job
    made = job_pb2.Job(
        name=job.name,
        url=job.url,
        format=job.format,
        priority=cast("job_pb2.Job.Priority.ValueType", job.priority),
        labels=job.labels,
        schedule_time=fields.stamp(job.schedule_time),
        retry_policy=policy_of(job.retry),
        attempt_deadline=fields.duration(job.attempt_deadline),
        expire_time=fields.stamp(job.expire_time or (job.end_time or job.create_time) + job.ttl),
        kind=cast("job_pb2.Job.Kind.ValueType", job.kind),
        state=cast("job_pb2.Job.State.ValueType", job.state),
        progress=job.progress,
        error=error_of(job.state, job.error),
        media=job.media,
        artifacts=job.artifacts,
        attempt_count=job.charged,
        next_attempt_time=fields.stamp(job.next_attempt_time),
        tenant=job.tenant,
        batch_id=job.batch_id,
        create_time=fields.stamp(job.create_time),
        update_time=fields.stamp(job.update_time),
        start_time=fields.stamp(job.start_time),
        end_time=fields.stamp(job.end_time),
        revision=job.revision,
        etag=job.etag,
        got=job.got,
        warnings=job.warnings,
        recording_stop_time=fields.stamp(job.recording_stop_time),
        wait=wait_of(seen.wait),
        estimate=seen.estimate,
        expansion=_expansion_of(seen),
        parent_job=f"jobs/{job.parent}" if job.parent else "",
        schedule=f"schedules/{job.schedule}" if job.schedule else "",
    )
    if view == job_service_pb2.JOB_VIEW_BASIC:
        for heavy in ("formats", "description", "entries"):
            made.media.ClearField(heavy)
        if job.media is None:
            made.ClearField("media")
    return made


def protos_of(
    jobs: Iterable[Job], view: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL
) -> Iterator[job_pb2.Job]:
    """What callers see of *jobs*, without their places in the queue."""
    before: Job | None = None
    made = job_pb2.Job()
    for job in jobs:
        if before is None or job.shared_fields != before.shared_fields:
            made = proto_of(JobView(job, wait_reason.explain_wait(job)), view)
        else:
            # Jobs asked for together are mostly alike, and most of the work is the same.
            alike, made = made, job_pb2.Job()
            made.CopyFrom(alike)
            made.name, made.url = job.name, job.url
        before = job
        yield made


def _expansion_of(seen: JobView) -> job_pb2.Expansion | None:
    expansion = seen.job.expansion
    if expansion is None:
        return None
    return job_pb2.Expansion(
        max_entries=expansion.max_entries,
        new_entries_only=expansion.new_entries_only,
        entry_count=expansion.entry_count,
        job_count=expansion.job_count,
        skipped_count=expansion.skipped_count,
        state_counts={state.name: number for state, number in (seen.children or {}).items()},
    )


def error_of(state: State, error: status_pb2.Status | None) -> status_pb2.Status | None:
    """The error that a job in *state* shows: its own, not one that a retry has made good."""
    return error if state in _SHOW_ERROR else None


def wait_of(wait: wait_reason.Wait | None) -> job_pb2.Wait | None:
    """Why it does not run."""
    if wait is None:
        return None
    return job_pb2.Wait(
        reason=cast("job_pb2.Wait.Reason.ValueType", wait.reason),
        position=wait.position,
        until=fields.stamp(wait.until),
        message=wait.message,
    )


def attempt_of(attempt: Attempt) -> job_pb2.Attempt:
    """What callers see of an attempt."""
    return job_pb2.Attempt(
        name=attempt.name,
        state=cast("job_pb2.Attempt.State.ValueType", attempt.state),
        worker=attempt.worker,
        engine_version=attempt.engine_version,
        error=attempt.error,
        downloaded_bytes=attempt.downloaded_bytes,
        start_time=fields.stamp(attempt.start_time),
        end_time=fields.stamp(attempt.end_time),
        epoch=attempt.epoch,
        http_statuses=attempt.http_statuses,
    )


def policy_of(policy: RetryPolicy) -> job_pb2.RetryPolicy:
    """How its failed attempts are repeated."""
    return job_pb2.RetryPolicy(
        max_attempts=policy.max_attempts,
        min_backoff=fields.duration(policy.min_backoff),
        max_backoff=fields.duration(policy.max_backoff),
    )
