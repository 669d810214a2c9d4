"""Forms: what many jobs ask for alike is checked and converted once, not for each of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.api.jobs import validation
from reelhaul_jobs.model.job import Job
from reelhaul_runtime import identity

_KEPT = 1024
# Of more bytes than this none is kept: callers choose them.
_LARGEST = 2048


@dataclass(frozen=True, slots=True)
class NewJobContext:
    """What a new job is given and was not asked for."""

    tenant: str
    now: datetime
    traceparent: str
    batch_id: str = ""


class JobTemplateCache:
    """Makes jobs of what callers ask for, and remembers the forms that it let pass.

    A form is all that was asked but a job's own URL, labels, and points in time.
    """

    def __init__(self, retention: timedelta) -> None:
        #: How long a job is kept after its end where its caller does not say.
        self._retention = retention
        # Form, and what its caller may do -> a job made of it.
        self._known: OrderedDict[tuple[bytes, int], Job] = OrderedDict()

    def job_of(self, asked: job_pb2.Job, job_id: str, birth: NewJobContext) -> Job:
        """The new job that *asked* is. Raises what ``admission.admitted`` does."""
        form = _form_of(asked)
        key = (form, identity.caller().level)
        known = self._known.get(key)
        if known is not None and validation.varying_fields_valid(asked, birth.now):
            self._known.move_to_end(key)
            return from_template(known, asked, fields.new_id(job_id), birth)
        good = validation.validate_and_normalize(asked, birth.now)
        made = to_jobs.job_of(good, job_id, birth.tenant, birth.now, birth.traceparent, self._retention)
        if birth.batch_id:
            made = made.replace_fields(batch_id=birth.batch_id)
        if len(form) <= _LARGEST:
            self._known[key] = made.replace_fields(url="", labels={})
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return made


def _form_of(asked: job_pb2.Job) -> bytes:
    form = job_pb2.Job()
    form.CopyFrom(asked)
    # What a job seldom shares with others; ``_like`` takes it from each.
    form.ClearField("url")
    form.ClearField("labels")
    form.ClearField("schedule_time")
    form.ClearField("expire_time")
    return form.SerializeToString(deterministic=True)


def from_template(known: Job, asked: job_pb2.Job, job_id: str, birth: NewJobContext) -> Job:
    return known.replace_fields(
        id=job_id,
        tenant=birth.tenant,
        url=asked.url,
        labels=dict(asked.labels),
        schedule_time=fields.time(asked.schedule_time) if asked.HasField("schedule_time") else None,
        expire_time=fields.time(asked.expire_time) if asked.HasField("expire_time") else None,
        create_time=birth.now,
        update_time=birth.now,
        traceparent=birth.traceparent,
        batch_id=birth.batch_id or (job_id if known.expansion else ""),
    )
