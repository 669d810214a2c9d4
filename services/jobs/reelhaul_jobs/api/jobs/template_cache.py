"""Template cache: what new jobs have in common is validated and converted once, not for each of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages, validation
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_runtime import identity
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.validation.violations import FieldNames, same_name

_MAX_TEMPLATES = 1024
# Larger requests are not kept: callers choose their size.
_MAX_BYTES = 2048


@dataclass(frozen=True, slots=True)
class NewJobContext:
    """What a new job gets besides what was requested."""

    tenant: str
    now: datetime
    traceparent: str
    #: Id of the caller's key; empty without one.
    api_key: str = ""
    batch_id: str = ""
    limits: JobLimits = field(default_factory=JobLimits)


class JobTemplateCache:
    """Converts requested jobs, and keeps those that were valid as templates.

    A template is everything that was requested but URL, labels and points in time.
    """

    def __init__(self, retention: timedelta, rules: Rules | None = None) -> None:
        """*retention*: how long a job is kept after its end unless its caller says.

        *rules* are those of ``urls.check_url``.
        """
        self._retention, self._rules = retention, rules
        # Serialized template and the caller's permission level -> a job made from it.
        self._templates: OrderedDict[tuple[bytes, int], Job] = OrderedDict()

    def job_of(
        self, requested: job_pb2.Job, job_id: str, context: NewJobContext, names: FieldNames = same_name
    ) -> Job:
        """Return the new job that *requested* describes, within the limits of *context*.

        Raises as ``validation.validate_and_normalize``, FIELD_INVALID for a bad *job_id*, SITE_FORBIDDEN.
        """
        job = self._unlimited_job_of(requested, job_id, context, names)
        return context.limits.admit(job, context.now, names("job.url"))

    def _unlimited_job_of(
        self, requested: job_pb2.Job, job_id: str, context: NewJobContext, names: FieldNames
    ) -> Job:
        content = _shared_content(requested)
        key = (content, identity.caller().level)
        template = self._templates.get(key)
        if template is not None and validation.varying_fields_valid(requested, context.now, self._rules):
            self._templates.move_to_end(key)
            fields.check_new_job_id(job_id, names("job_id"))
            return _from_template(template, requested, job_id, context)
        valid = validation.validate_and_normalize(requested, context.now, names, self._rules)
        fields.check_new_job_id(job_id, names("job_id"))
        job = messages.job_from_proto(
            valid, job_id, context.tenant, context.now, context.traceparent, self._retention
        )
        if context.batch_id or context.api_key:
            job = job.replace_fields(batch_id=context.batch_id or job.batch_id, api_key=context.api_key)
        if len(content) <= _MAX_BYTES:
            self._templates[key] = job.replace_fields(url="", labels={})
            if len(self._templates) > _MAX_TEMPLATES:
                self._templates.popitem(last=False)
        return job


def _shared_content(requested: job_pb2.Job) -> bytes:
    """Return *requested* without the fields that jobs seldom share, serialized."""
    shared = job_pb2.Job()
    shared.CopyFrom(requested)
    # ``_from_template`` takes these from each request.
    shared.ClearField("url")
    shared.ClearField("labels")
    shared.ClearField("schedule_time")
    shared.ClearField("expire_time")
    return shared.SerializeToString(deterministic=True)


def _from_template(template: Job, requested: job_pb2.Job, job_id: str, context: NewJobContext) -> Job:
    schedule_time = requested.schedule_time if requested.HasField("schedule_time") else None
    expire_time = requested.expire_time if requested.HasField("expire_time") else None
    return template.replace_fields(
        id=job_id,
        tenant=context.tenant,
        url=requested.url,
        labels=dict(requested.labels),
        schedule_time=fields.to_datetime(schedule_time) if schedule_time else None,
        expire_time=fields.to_datetime(expire_time) if expire_time else None,
        create_time=context.now,
        update_time=context.now,
        traceparent=context.traceparent,
        api_key=context.api_key,
        batch_id=context.batch_id or (job_id if template.expansion else ""),
    )
