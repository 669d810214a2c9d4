"""What a schedule must be before it is written down; its template is admitted as a job is."""

from __future__ import annotations

from datetime import datetime, timedelta

from reelhaul.jobs.v1 import job_pb2, schedule_pb2
from reelhaul_jobs.api.error_paths import renamed
from reelhaul_jobs.api.jobs import validation
from reelhaul_jobs.model.cron import CronError, parse_cron, parse_time_zone
from reelhaul_jobs.model.job import Job
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.validation import fields, urls
from reelhaul_runtime.validation.violations import FieldViolations

_FAR = timedelta(days=3660)


def admitted(asked: schedule_pb2.Schedule, now: datetime, since: datetime) -> schedule_pb2.Schedule:
    """*asked* as it may be stored: checked, defaults filled in, OUTPUT_ONLY fields cleared.

    *since* is when it was created. Raises as ``admission.admitted``, fields named from the
    request: ``schedule.cron``, ``schedule.job_template.url``.
    """
    schedule = schedule_pb2.Schedule()
    schedule.CopyFrom(asked)
    fields.clear_output(schedule)
    findings = FieldViolations()
    fields.check_enums(schedule, "schedule", findings)
    _check_times(schedule, now, since, findings)
    if schedule.job_template.HasField("schedule_time"):
        findings.add("schedule.job_template.schedule_time", "it must be unset: the cron says when")
    if schedule.job_template.HasField("expire_time"):
        findings.add("schedule.job_template.expire_time", "it must be unset: ttl counts for each job")
    findings.raise_if_any()
    schedule.job_template.CopyFrom(_template(schedule, now))
    schedule.catch_up = schedule.catch_up or schedule_pb2.Schedule.SKIP
    return schedule


def check_again(job: Job) -> None:
    """Raise URL_INVALID or URL_FORBIDDEN if *job*'s URL may not be fetched any more."""
    findings = FieldViolations()
    urls.check_url(job.url, "job_template.url", findings)
    findings.raise_if_any()


def _check_times(
    schedule: schedule_pb2.Schedule, now: datetime, since: datetime, findings: FieldViolations
) -> None:
    try:
        parse_time_zone(schedule.time_zone)
    except CronError as error:
        findings.add("schedule.time_zone", str(error))
        return
    good_end = True
    if schedule.HasField("end_time"):
        good_end = findings.check_time(
            "schedule.end_time", schedule.end_time, not_before=now, not_after=now + _FAR
        )
    if not schedule.cron:
        findings.add("schedule.cron", "it is required")
        return
    try:
        first = parse_cron(schedule.cron, schedule.time_zone, since).next_after(now)
    except CronError as error:
        findings.add("schedule.cron", str(error))
        return
    if first is None:
        findings.add("schedule.cron", "it never fires")
    elif good_end and schedule.HasField("end_time") and schedule.end_time.ToDatetime(first.tzinfo) < first:
        findings.add("schedule.end_time", f"it is before the first run, {first.isoformat()}")


def _template(schedule: schedule_pb2.Schedule, now: datetime) -> job_pb2.Job:
    """The template as a job may be; what only a schedule's job may ask is set afterwards."""
    template = job_pb2.Job()
    template.CopyFrom(schedule.job_template)
    new_only = schedule.new_entries_only or template.expansion.new_entries_only
    if schedule.new_entries_only:
        template.kind = job_pb2.Job.EXPANSION
    if template.HasField("expansion"):
        template.expansion.ClearField("new_entries_only")
    try:
        good = validation.validate_and_normalize(template, now)
    except ReelhaulError as error:
        raise renamed(error, _named_here) from error
    if new_only:
        good.expansion.new_entries_only = True
        schedule.new_entries_only = True
    return good


def _named_here(field: str) -> str:
    return f"schedule.job_template{field.removeprefix('job')}"
