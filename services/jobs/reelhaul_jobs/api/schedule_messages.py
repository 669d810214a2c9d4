"""ScheduleService's messages <-> model."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from typing import cast

from google.protobuf import field_mask_pb2

from reelhaul.jobs.v1 import job_pb2, schedule_pb2, schedule_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import CatchUp, Schedule, ScheduleState
from reelhaul_runtime.errors import FieldInvalid

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# A template is no job: the id and times that it must have mean nothing.
_NO_ID = str(uuid.UUID(int=0))


def bare_id(name: str, field: str = "name") -> str:
    """The id of ``schedules/{schedule}``."""
    bare = name.removeprefix("schedules/")
    if bare == name or not (_ID.fullmatch(bare) or _is_uuid(bare)):
        raise FieldInvalid(field, "it is not of the form schedules/{schedule}")
    return bare


def new_id(asked: str) -> str:
    """A caller's own id, or one that is made."""
    if asked and not _ID.fullmatch(asked):
        raise FieldInvalid("schedule_id", "it does not match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    return asked or str(uuid.uuid4())


def schedule_of(
    asked: schedule_pb2.Schedule, schedule_id: str, tenant: str, now: datetime, retention: timedelta
) -> Schedule:
    """A new schedule as admission let it pass."""
    return Schedule(
        tenant=tenant,
        id=schedule_id,
        cron=asked.cron,
        time_zone=asked.time_zone,
        template=template_of(asked.job_template, tenant, now, retention),
        skip_overlapping=asked.skip_overlapping,
        new_entries_only=asked.new_entries_only,
        catch_up=CatchUp(asked.catch_up),
        end_time=fields.time(asked.end_time) if asked.HasField("end_time") else None,
        create_time=now,
        update_time=now,
    )


def template_of(asked: job_pb2.Job, tenant: str, now: datetime, retention: timedelta = timedelta(0)) -> Job:
    """What a schedule's jobs are made from."""
    return to_jobs.job_of(asked, _NO_ID, tenant, now, "", retention)


def proto_of(schedule: Schedule) -> schedule_pb2.Schedule:
    """What callers see of a schedule."""
    runs = schedule.state is ScheduleState.ENABLED
    return schedule_pb2.Schedule(
        name=schedule.name,
        cron=schedule.cron,
        time_zone=schedule.time_zone or "Etc/UTC",
        job_template=template_proto_of(schedule.template),
        skip_overlapping=schedule.skip_overlapping,
        new_entries_only=schedule.new_entries_only,
        catch_up=cast("schedule_pb2.Schedule.CatchUp.ValueType", schedule.catch_up),
        end_time=fields.stamp(schedule.end_time),
        state=cast("schedule_pb2.Schedule.State.ValueType", schedule.state),
        next_run_time=fields.stamp(schedule.next_run_time) if runs else None,
        last_job=f"jobs/{schedule.last_job}" if schedule.last_job else "",
        last_error=schedule.last_error,
        seen_entry_count=schedule.seen_count,
        create_time=fields.stamp(schedule.create_time),
        update_time=fields.stamp(schedule.update_time),
        etag=schedule.etag,
    )


def template_proto_of(job: Job) -> job_pb2.Job:
    """What a caller may have asked a template to be, every default filled in."""
    made = job_pb2.Job(
        url=job.url,
        format=job.format,
        priority=cast("job_pb2.Job.Priority.ValueType", job.priority),
        labels=job.labels,
        retry_policy=to_jobs.policy_of(job.retry),
        attempt_deadline=fields.duration(job.attempt_deadline),
        ttl=fields.duration(job.ttl),
        kind=cast("job_pb2.Job.Kind.ValueType", job.kind),
    )
    if job.expansion is not None:
        made.expansion.max_entries = job.expansion.max_entries
        made.expansion.new_entries_only = job.expansion.new_entries_only
    return made


def merged(schedule: Schedule, request: schedule_service_pb2.UpdateScheduleRequest) -> schedule_pb2.Schedule:
    """*schedule* with what *request* names; without a mask, with every field that it sets."""
    asked = request.schedule
    paths = [path for path in request.update_mask.paths if path != "name"]
    if not request.update_mask.paths:
        paths = [field.name for field, _ in asked.ListFields() if field.name not in ("name", "etag")]
    mask = field_mask_pb2.FieldMask(paths=paths)
    if paths == ["*"]:
        mask.AllFieldsFromDescriptor(asked.DESCRIPTOR)
    if not mask.IsValidForDescriptor(asked.DESCRIPTOR):
        raise FieldInvalid("update_mask", "it names a field that a schedule does not have")
    whole = proto_of(schedule)
    mask.MergeMessage(asked, whole, True, True)
    return whole


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
