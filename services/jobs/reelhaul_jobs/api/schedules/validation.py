"""Validation of a schedule before it is stored; its template is validated as a job is."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2, schedule_pb2
from reelhaul_jobs.api.jobs import validation
from reelhaul_jobs.model.cron import CronError, parse_cron, parse_time_zone
from reelhaul_jobs.model.job import Job
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.validation import fields, urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_END = timedelta(days=3660)


def validate_and_normalize(
    message: schedule_pb2.Schedule, now: datetime, create_time: datetime, rules: Rules | None = None
) -> schedule_pb2.Schedule:
    """Return a copy of *message* as it may be stored: defaults set, OUTPUT_ONLY fields cleared.

    Raises as ``jobs.validation.validate_and_normalize``, with fields named from the request:
    ``schedule.cron``, ``schedule.job_template.url``.
    """
    schedule = schedule_pb2.Schedule()
    schedule.CopyFrom(message)
    fields.clear_output(schedule)
    violations = FieldViolations()
    fields.check_enums(schedule, "schedule", violations)
    _check_times(schedule, now, create_time, violations)
    if schedule.job_template.HasField("schedule_time"):
        violations.add("schedule.job_template.schedule_time", "must be unset: the cron says when")
    if schedule.job_template.HasField("expire_time"):
        violations.add("schedule.job_template.expire_time", "must be unset: ttl counts for each job")
    violations.raise_if_any()
    schedule.job_template.CopyFrom(_validated_template(schedule, now, rules))
    schedule.catch_up = schedule.catch_up or schedule_pb2.Schedule.SKIP
    return schedule


def check_url(job: Job, rules: Rules | None = None) -> None:
    """Raise URL_INVALID or URL_FORBIDDEN if the URL of a schedule's *job* may not be fetched any more."""
    violations = FieldViolations()
    urls.check_url(job.url, "job_template.url", violations, rules)
    violations.raise_if_any()


def _check_times(
    schedule: schedule_pb2.Schedule, now: datetime, create_time: datetime, violations: FieldViolations
) -> None:
    try:
        parse_time_zone(schedule.time_zone)
    except CronError as error:
        violations.add("schedule.time_zone", str(error))
        return
    has_end, valid_end = schedule.HasField("end_time"), True
    if has_end:
        valid_end = violations.check_time(
            "schedule.end_time", schedule.end_time, not_before=now, not_after=now + _MAX_END
        )
    if not schedule.cron:
        violations.add("schedule.cron", "is required")
        return
    try:
        first_run = parse_cron(schedule.cron, schedule.time_zone, create_time).next_after(now)
    except CronError as error:
        violations.add("schedule.cron", str(error))
        return
    if first_run is None:
        violations.add("schedule.cron", "never fires")
    elif has_end and valid_end and schedule.end_time.ToDatetime(first_run.tzinfo) < first_run:
        violations.add("schedule.end_time", f"must be after the first run, {first_run.isoformat()}")


def _validated_template(schedule: schedule_pb2.Schedule, now: datetime, rules: Rules | None) -> job_pb2.Job:
    """Return the template, valid as a job is; what only a schedule's job may ask for is set afterwards."""
    template = job_pb2.Job()
    template.CopyFrom(schedule.job_template)
    new_entries_only = schedule.new_entries_only or template.expansion.new_entries_only
    if schedule.new_entries_only:
        template.kind = job_pb2.Job.EXPANSION
    if template.HasField("expansion"):
        template.expansion.ClearField("new_entries_only")
    valid = validation.validate_and_normalize(template, now, _template_field, rules)
    if new_entries_only:
        valid.expansion.new_entries_only = True
        schedule.new_entries_only = True
    return valid


def _template_field(field: str) -> str:
    return f"schedule.job_template{field.removeprefix('job')}"
