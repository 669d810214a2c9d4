"""UpdateJob: which fields change, their validation, and their conversion."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import validation
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.model.user_actions import Update
from reelhaul_runtime.validation import fields as message_fields
from reelhaul_runtime.validation.violations import FieldViolations

# An expiration is one choice of two: naming either field of it means both.
_EXPIRATION = frozenset({"expire_time", "ttl"})
_UPDATABLE = frozenset({"priority", "labels", "schedule_time"}) | _EXPIRATION
_IDENTIFYING = frozenset({"name", "etag"})


def update_from_request(
    request: job_service_pb2.UpdateJobRequest, now: datetime, retention: timedelta
) -> Update:
    """Return the requested change; a field of the mask that is unset gets its default.

    FIELD_INVALID names all fields that cannot be changed or are out of bounds.
    """
    job, paths = request.job, _valid_paths(request, now)
    at_time = "expire_time" in paths and job.HasField("expire_time")
    if paths & _EXPIRATION:
        paths = paths - _EXPIRATION | {"expire_time" if at_time else "ttl"}
    return Update(
        paths=paths,
        priority=Priority(job.priority or Priority.NORMAL),
        labels=dict(job.labels),
        schedule_time=fields.to_datetime(job.schedule_time) if job.HasField("schedule_time") else None,
        expire_time=fields.to_datetime(job.expire_time) if at_time else None,
        ttl=job.ttl.ToTimedelta() if job.HasField("ttl") else retention,
    )


def _valid_paths(request: job_service_pb2.UpdateJobRequest, now: datetime) -> frozenset[str]:
    """Return the fields to change: those of the mask, or without a mask those that are set."""
    violations = FieldViolations()
    job = job_pb2.Job()
    job.CopyFrom(request.job)
    message_fields.clear_output(job)
    masked = set(request.update_mask.paths)
    paths = masked or {field.name for field, _ in job.ListFields()} - _IDENTIFYING
    if "*" in paths:
        paths = set(_UPDATABLE)
    for path in sorted(paths - _UPDATABLE):
        violations.add("update_mask" if masked else f"job.{path}", f"{path[:64]} cannot be changed")
    for path in _UPDATABLE - paths:
        job.ClearField(path)  # type: ignore[arg-type]
    message_fields.check_enums(job, "job", violations)
    validation.check_labels(job, violations)
    validation.check_times(job, now, violations)
    violations.raise_if_any()
    return frozenset(paths)
