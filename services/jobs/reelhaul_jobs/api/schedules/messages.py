"""Conversion between the messages of ScheduleService and the model."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from typing import cast

from reelhaul.jobs.v1 import schedule_pb2, schedule_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.model.job_template import template_from_proto, template_to_proto
from reelhaul_jobs.model.schedule import CatchUp, Schedule, ScheduleState
from reelhaul_runtime.errors import FieldInvalid

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_schedule_id(name: str, field: str = "name") -> str:
    """Return the id of ``schedules/{schedule}``."""
    schedule_id = name.removeprefix("schedules/")
    if schedule_id == name or not (_ID.fullmatch(schedule_id) or _is_uuid(schedule_id)):
        raise FieldInvalid(field, "must have the form schedules/{schedule}")
    return schedule_id


def new_schedule_id(requested: str) -> str:
    """Return the requested id if it is valid, or a new one if none is requested."""
    if requested and not _ID.fullmatch(requested):
        raise FieldInvalid("schedule_id", "must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    return requested or str(uuid.uuid4())


def schedule_from_proto(
    message: schedule_pb2.Schedule, schedule_id: str, tenant: str, now: datetime, retention: timedelta
) -> Schedule:
    """Return the new schedule that the validated *message* describes."""
    return Schedule(
        tenant=tenant,
        id=schedule_id,
        cron=message.cron,
        time_zone=message.time_zone,
        template=template_from_proto(message.job_template, tenant, now, retention),
        skip_overlapping=message.skip_overlapping,
        new_entries_only=message.new_entries_only,
        catch_up=CatchUp(message.catch_up),
        end_time=fields.to_datetime(message.end_time) if message.HasField("end_time") else None,
        create_time=now,
        update_time=now,
    )


def schedule_to_proto(schedule: Schedule) -> schedule_pb2.Schedule:
    """Return the schedule that callers see."""
    enabled = schedule.state is ScheduleState.ENABLED
    return schedule_pb2.Schedule(
        name=schedule.name,
        cron=schedule.cron,
        time_zone=schedule.time_zone or "Etc/UTC",
        job_template=template_to_proto(schedule.template),
        skip_overlapping=schedule.skip_overlapping,
        new_entries_only=schedule.new_entries_only,
        catch_up=cast("schedule_pb2.Schedule.CatchUp.ValueType", schedule.catch_up),
        end_time=fields.to_timestamp(schedule.end_time),
        state=cast("schedule_pb2.Schedule.State.ValueType", schedule.state),
        next_run_time=fields.to_timestamp(schedule.next_run_time) if enabled else None,
        last_job=f"jobs/{schedule.last_job}" if schedule.last_job else "",
        last_error=schedule.last_error,
        seen_entry_count=schedule.seen_count,
        create_time=fields.to_timestamp(schedule.create_time),
        update_time=fields.to_timestamp(schedule.update_time),
        etag=schedule.etag,
    )


def merge_update(
    schedule: Schedule, request: schedule_service_pb2.UpdateScheduleRequest
) -> schedule_pb2.Schedule:
    """Return *schedule* with the fields of *request* that its mask names; without a mask, all set ones."""
    update = request.schedule
    mask = fields.resolve_update_mask(request.update_mask, update)
    merged = schedule_to_proto(schedule)
    mask.MergeMessage(update, merged, True, True)
    return merged


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
