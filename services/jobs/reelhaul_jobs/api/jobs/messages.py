"""Conversion between the messages of jobs and attempts and the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import cast

from google.rpc import status_pb2

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.model import ids, wait_reason
from reelhaul_jobs.model.deliveries import delivery_to_proto
from reelhaul_jobs.model.job import Attempt, Delivery, Job
from reelhaul_jobs.model.job_template import DESTINATIONS, retry_policy_to_proto, template_from_proto
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import DeliveryState, State

_STATES_WITH_ERROR = frozenset({State.RETRYING, State.FAILED, State.CANCELLING, State.CANCELLED})


def job_from_proto(
    job: job_pb2.Job,
    job_id: str,
    tenant: str,
    now: datetime,
    traceparent: str,
    retention: timedelta,
) -> Job:
    """Return the new job that the validated *job* describes; with an empty *job_id* it gets a new id.

    *retention*: how long it is kept after its end unless *job* says.
    """
    new_id = job_id or ids.new_id(now)
    return template_from_proto(job, tenant, now, retention).replace_fields(
        id=new_id,
        schedule_time=fields.to_datetime(job.schedule_time) if job.HasField("schedule_time") else None,
        expire_time=fields.to_datetime(job.expire_time) if job.HasField("expire_time") else None,
        traceparent=traceparent[:64],
        # The jobs of an expansion are found, and may be cancelled, together.
        batch_id=new_id if job.HasField("expansion") else "",
    )


def job_to_proto(
    view: JobView, detail: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL
) -> job_pb2.Job:
    """Return the job that callers see, in full or without the heavy fields of its media."""
    job = view.job
    message = job_pb2.Job(
        name=job.name,
        url=job.url,
        format=job.format,
        priority=cast("job_pb2.Job.Priority.ValueType", job.priority),
        labels=job.labels,
        schedule_time=fields.to_timestamp(job.schedule_time),
        retry_policy=retry_policy_to_proto(job.retry),
        attempt_deadline=fields.to_duration(job.attempt_deadline),
        expire_time=fields.to_timestamp(expire_time_of(job)),
        kind=cast("job_pb2.Job.Kind.ValueType", job.kind),
        state=cast("job_pb2.Job.State.ValueType", job.state),
        progress=job.progress,
        error=visible_error(job.state, job.error),
        media=job.media,
        artifacts=job.artifacts,
        deliver_to=f"{DESTINATIONS}{job.deliver_to}" if job.deliver_to else "",
        deliveries=[_delivery_to_proto(job, delivery) for delivery in job.deliveries],
        attempt_count=job.charged,
        next_attempt_time=fields.to_timestamp(job.next_attempt_time),
        tenant=job.tenant,
        batch_id=job.batch_id,
        create_time=fields.to_timestamp(job.create_time),
        update_time=fields.to_timestamp(job.update_time),
        start_time=fields.to_timestamp(job.start_time),
        end_time=fields.to_timestamp(job.end_time),
        revision=job.revision,
        etag=job.etag,
        got=job.got,
        warnings=job.warnings,
        recording_stop_time=fields.to_timestamp(job.recording_stop_time),
        wait=wait_to_proto(view.wait),
        estimate=view.estimate,
        expansion=_expansion_to_proto(view),
        parent_job=f"jobs/{job.parent}" if job.parent else "",
        schedule=f"schedules/{job.schedule}" if job.schedule else "",
    )
    if detail == job_service_pb2.JOB_VIEW_BASIC:
        for heavy in ("formats", "description", "entries"):
            message.media.ClearField(heavy)
        if job.media is None:
            message.ClearField("media")
    return message


def jobs_to_protos(
    jobs: Iterable[Job], detail: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL
) -> Iterator[job_pb2.Job]:
    """Yield the jobs that callers see, without their positions in the queue."""
    previous: Job | None = None
    message = job_pb2.Job()
    for job in jobs:
        if previous is None or job.shared_fields != previous.shared_fields:
            message = job_to_proto(JobView.from_row(job), detail)
        else:
            # Jobs created together differ mostly in id and URL only: copying is faster.
            template, message = message, job_pb2.Job()
            message.CopyFrom(template)
            message.name, message.url = job.name, job.url
        previous = job
        yield message


def expire_time_of(job: Job) -> datetime:
    """Return when *job* expires, or would if it ended when it was created."""
    return job.expire_time or (job.end_time or job.create_time) + job.ttl


def visible_error(state: State, error: status_pb2.Status | None) -> status_pb2.Status | None:
    """Return the error that a job in *state* shows: not one that a retry has made good."""
    return error if state in _STATES_WITH_ERROR else None


def wait_to_proto(wait: wait_reason.Wait | None) -> job_pb2.Wait | None:
    """Return why a job does not run."""
    if wait is None:
        return None
    return job_pb2.Wait(
        reason=cast("job_pb2.Wait.Reason.ValueType", wait.reason),
        position=wait.position,
        until=fields.to_timestamp(wait.until),
        message=wait.message,
    )


def attempt_to_proto(attempt: Attempt) -> job_pb2.Attempt:
    """Return the attempt that callers see."""
    return job_pb2.Attempt(
        name=attempt.name,
        state=cast("job_pb2.Attempt.State.ValueType", attempt.state),
        worker=attempt.worker,
        engine_version=attempt.engine_version,
        error=attempt.error,
        downloaded_bytes=attempt.downloaded_bytes,
        start_time=fields.to_timestamp(attempt.start_time),
        end_time=fields.to_timestamp(attempt.end_time),
        epoch=attempt.epoch,
        http_statuses=attempt.http_statuses,
    )


def _delivery_to_proto(job: Job, delivery: Delivery) -> job_pb2.ArtifactDelivery:
    """Return the delivery that callers see: without its lease."""
    message = delivery_to_proto(job, delivery)
    if delivery.state is not DeliveryState.PENDING:
        message.ClearField("next_attempt_time")
    return message


def _expansion_to_proto(view: JobView) -> job_pb2.Expansion | None:
    expansion = view.job.expansion
    if expansion is None:
        return None
    return job_pb2.Expansion(
        max_entries=expansion.max_entries,
        new_entries_only=expansion.new_entries_only,
        entry_count=expansion.entry_count,
        job_count=expansion.job_count,
        skipped_count=expansion.skipped_count,
        state_counts={state.name: number for state, number in (view.children or {}).items()},
    )
