"""UpdateJob: which fields are meant, and whether they may be what is asked."""

from __future__ import annotations

from datetime import datetime

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api.jobs import validation
from reelhaul_runtime.validation import fields
from reelhaul_runtime.validation.violations import FieldViolations

#: What may be changed of a job. An expiration is one choice of two: naming either means both.
CHANGEABLE = frozenset({"priority", "labels", "schedule_time", "expire_time", "ttl"})

_NAMES = frozenset({"name", "etag"})


def paths_of(request: job_service_pb2.UpdateJobRequest, now: datetime) -> frozenset[str]:
    """The fields to change, each within its bounds. FIELD_INVALID names all that are not."""
    findings = FieldViolations()
    asked = job_pb2.Job()
    asked.CopyFrom(request.job)
    fields.clear_output(asked)
    masked = set(request.update_mask.paths)
    paths = masked or {field.name for field, _ in asked.ListFields()} - _NAMES
    if "*" in paths:
        paths = set(CHANGEABLE)
    for path in sorted(paths - CHANGEABLE):
        where = "update_mask" if masked else f"job.{path}"
        findings.add(where, f"{path[:64]} cannot be changed")
    for path in CHANGEABLE - paths:
        asked.ClearField(path)  # type: ignore[arg-type]
    fields.check_enums(asked, "job", findings)
    validation.check_labels(asked, findings)
    validation.check_times(asked, now, findings)
    findings.raise_if_any()
    return frozenset(paths)
