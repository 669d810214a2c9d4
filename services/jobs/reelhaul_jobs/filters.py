"""The fields of jobs that filters may name, and their values for a job."""

from __future__ import annotations

from collections.abc import Mapping

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import retries, states
from reelhaul_jobs.model.job import Job
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.evaluate import Facts

#: The fields listed at ListJobsRequest.filter in job_service.proto.
JOB_FIELDS: Mapping[str, Field] = {
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in states.State}),
    "kind": Field(FieldKind.ENUM, {kind.name: int(kind) for kind in states.Kind}),
    "priority": Field(FieldKind.ENUM, {priority.name: int(priority) for priority in states.Priority}),
    "url": Field(FieldKind.PATTERN),
    "labels": Field(FieldKind.MAP),
    "batch_id": Field(FieldKind.TEXT),
    "parent_job": Field(FieldKind.TEXT),
    "schedule": Field(FieldKind.TEXT),
    "create_time": Field(FieldKind.TIME),
    "update_time": Field(FieldKind.TIME),
    "end_time": Field(FieldKind.TIME),
    "error.reason": Field(FieldKind.TEXT),
    "media.extractor": Field(FieldKind.TEXT),
    "media.title": Field(FieldKind.PATTERN),
}

#: The fields for callers who see the jobs of all tenants.
ADMIN_FIELDS: Mapping[str, Field] = {**JOB_FIELDS, "tenant": Field(FieldKind.TEXT)}


def job_facts(job: Job) -> Facts:
    """Return the values of *job* by field."""
    return {
        "state": int(job.state),
        "kind": int(job.kind),
        "priority": int(job.priority),
        "url": job.url,
        "labels": job.labels,
        "batch_id": job.batch_id,
        "parent_job": f"jobs/{job.parent}" if job.parent else "",
        "schedule": f"schedules/{job.schedule}" if job.schedule else "",
        "create_time": job.create_time,
        "update_time": job.update_time,
        "end_time": job.end_time,
        "error.reason": ErrorReason.Name(retries.error_reason(job.error)) if job.error else "",
        "media.extractor": job.media.extractor if job.media else "",
        "media.title": job.media.title if job.media else "",
        "tenant": job.tenant,
    }
