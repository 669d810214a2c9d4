"""UpdateJobRequest -> what it wants of a job."""

from __future__ import annotations

from datetime import timedelta

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.model.states import Priority
from reelhaul_jobs.model.user_actions import Update


def update_of(
    request: job_service_pb2.UpdateJobRequest, paths: frozenset[str], retention: timedelta
) -> Update:
    """The update of an admitted request; a field that is meant and unset takes its default."""
    asked = request.job
    expires = bool(paths & {"expire_time", "ttl"})
    at_time = expires and asked.HasField("expire_time") and "expire_time" in paths
    if expires:
        paths = paths - {"expire_time", "ttl"} | {"expire_time" if at_time else "ttl"}
    return Update(
        paths=paths,
        priority=Priority(asked.priority or Priority.NORMAL),
        labels=dict(asked.labels),
        schedule_time=fields.time(asked.schedule_time) if asked.HasField("schedule_time") else None,
        expire_time=fields.time(asked.expire_time) if at_time else None,
        ttl=asked.ttl.ToTimedelta() if asked.HasField("ttl") else retention,
    )
