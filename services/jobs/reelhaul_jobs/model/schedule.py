"""Schedules: what happens to one when its time comes or a user acts on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from google.rpc import status_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import ids, queue_transitions, retries
from reelhaul_jobs.model.cron import Cron, parse_cron
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Kind
from reelhaul_runtime.errors import QuotaExceeded, ReelhaulError, StateConflict, to_status

#: A run that would start later than this is missed; a restart of the service takes less.
START_TOLERANCE = timedelta(minutes=10)

#: Schedules per tenant.
MAX_PER_TENANT = 1000

#: A schedule is disabled after this many failed runs in a row.
MAX_FAILED_RUNS = 5


class ScheduleState(IntEnum):
    """Whether a schedule runs; numbered as Schedule.State."""

    ENABLED = 1
    #: Paused by a user.
    PAUSED = 2
    #: Disabled by the service: its runs fail, or its end_time has passed.
    DISABLED = 3


class CatchUp(IntEnum):
    """What to do about missed runs; numbered as Schedule.CatchUp."""

    SKIP = 1
    ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recurring time and the job to create at it."""

    tenant: str
    id: str
    #: Id of the key that created it, whose quotas its jobs use; empty without one.
    api_key: str = ""
    cron: str
    time_zone: str = ""
    #: What each job is created from; its id and times mean nothing.
    template: Job
    skip_overlapping: bool = False
    new_entries_only: bool = False
    catch_up: CatchUp = CatchUp.SKIP
    end_time: datetime | None = None
    state: ScheduleState = ScheduleState.ENABLED
    #: When it runs next; while it is paused, when it would have run.
    next_run_time: datetime | None = None
    #: Id of its newest job.
    last_job: str = ""
    last_error: status_pb2.Status | None = None
    #: Failed runs in a row.
    failures: int = 0
    seen_count: int = 0
    revision: int = 1
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"schedules/{self.id}"

    @property
    def etag(self) -> str:
        """The strong entity tag, quoted: the revision."""
        return f'"{self.revision}"'

    @property
    def parsed_cron(self) -> Cron:
        """The parsed cron expression in its time zone."""
        return parse_cron(self.cron, self.time_zone, self.create_time)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return its first run after *moment* and up to its end_time; None if there is none."""
        time = self.parsed_cron.next_after(moment)
        return None if time is None or (self.end_time and time > self.end_time) else time

    def bump(self, now: datetime, **fields: Any) -> Schedule:
        """Return this schedule with other *fields* and the next revision."""
        return replace(self, revision=self.revision + 1, update_time=now, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of applying a rule to a schedule, and the job that it created, if any."""

    before: Schedule
    after: Schedule
    job: Job | None = None

    @property
    def failed(self) -> bool:
        """Whether no job could be created."""
        return self.after.failures > self.before.failures


#: Raises why a job of a schedule may not be created now.
CheckJob = Callable[[Job], None]


def run_if_due(schedule: Schedule, now: datetime, live: bool, check: CheckJob) -> Run:
    """Create a job if the time of *schedule* has come; *live* says whether one of its jobs has not ended."""
    planned = schedule.next_run_time
    if schedule.state is not ScheduleState.ENABLED or planned is None or planned > now:
        return Run(before=schedule, after=schedule)
    following = schedule.next_after(now)
    fields: dict[str, Any] = {"next_run_time": following}
    if following is None:
        fields["state"] = ScheduleState.DISABLED
    if _missed(schedule, planned, now):
        return Run(before=schedule, after=schedule.bump(now, **fields))
    if schedule.skip_overlapping and live:
        skipped = to_status(_overlapping(schedule))
        return Run(before=schedule, after=schedule.bump(now, last_error=skipped, **fields))
    job = create_job(schedule, now)
    try:
        check(job)
    except ReelhaulError as error:
        return Run(before=schedule, after=_fail_run(schedule, error, now, fields))
    after = schedule.bump(now, last_job=job.id, last_error=None, failures=0, **fields)
    return Run(before=schedule, after=after, job=job)


def run_now(schedule: Schedule, now: datetime, live: bool, check: CheckJob) -> Run:
    """Create a job at once. Raises STATE_CONFLICT if it would overlap another one."""
    if schedule.skip_overlapping and live:
        raise _overlapping(schedule)
    job = create_job(schedule, now)
    check(job)
    after = schedule.bump(now, last_job=job.id, last_error=None)
    return Run(before=schedule, after=after, job=job)


def pause(schedule: Schedule, now: datetime) -> Schedule:
    """Pause *schedule*; no change if it is paused."""
    if schedule.state is ScheduleState.PAUSED:
        return schedule
    return schedule.bump(now, state=ScheduleState.PAUSED)


def resume(schedule: Schedule, now: datetime) -> Schedule:
    """Resume *schedule*; no change if it is enabled. Raises STATE_CONFLICT if its end_time has passed."""
    if schedule.state is ScheduleState.ENABLED:
        return schedule
    missed = schedule.next_run_time
    following = missed if schedule.catch_up is CatchUp.ONCE and missed else schedule.next_after(now)
    if following is None or (schedule.end_time and schedule.end_time <= now):
        raise StateConflict(schedule.name, schedule.state.name, f"{schedule.name} is past its end_time")
    return schedule.bump(now, state=ScheduleState.ENABLED, failures=0, next_run_time=following)


def update(schedule: Schedule, new: Schedule, now: datetime) -> Schedule:
    """Return *schedule* with the fields of *new* that users set; the next run follows from its times."""
    after = schedule.bump(
        now,
        cron=new.cron,
        time_zone=new.time_zone,
        template=new.template,
        skip_overlapping=new.skip_overlapping,
        new_entries_only=new.new_entries_only,
        catch_up=new.catch_up,
        end_time=new.end_time,
    )
    if (after.cron, after.time_zone, after.end_time) == (
        schedule.cron,
        schedule.time_zone,
        schedule.end_time,
    ):
        return after
    return replace(after, next_run_time=after.next_after(now))


def create_job(schedule: Schedule, now: datetime) -> Job:
    """Return a new job of *schedule*."""
    job_id = ids.new_id(now)
    job = replace(
        schedule.template,
        id=job_id,
        tenant=schedule.tenant,
        api_key=schedule.api_key,
        create_time=now,
        update_time=now,
        schedule=schedule.id,
        batch_id=job_id if schedule.template.kind is Kind.EXPANSION else "",
    )
    return queue_transitions.enqueue(job)


def _missed(schedule: Schedule, planned: datetime, now: datetime) -> bool:
    if schedule.catch_up is CatchUp.ONCE or now - planned <= START_TOLERANCE:
        return False
    newest = schedule.next_after(now - START_TOLERANCE)
    return newest is None or newest > now


def _overlapping(schedule: Schedule) -> ReelhaulError:
    return StateConflict(schedule.name, "RUNNING", f"skipped: a job of {schedule.name} is live")


def _fail_run(schedule: Schedule, error: ReelhaulError, now: datetime, fields: dict[str, Any]) -> Schedule:
    failures = schedule.failures + 1
    last_error = retries.normalize_error(to_status(error))
    if failures >= MAX_FAILED_RUNS:
        fields = {"next_run_time": None, "state": ScheduleState.DISABLED}
    return schedule.bump(now, failures=failures, last_error=last_error, **fields)


def already_exists(schedule: Schedule) -> ReelhaulError:
    """Return the error for an id that is taken."""
    text = f"{schedule.name} exists"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, text, metadata={"resource": schedule.name})


def quota_exceeded(schedule: Schedule) -> ReelhaulError:
    """Return the error for a new schedule of a tenant at its limit."""
    text = f"a tenant has at most {MAX_PER_TENANT} schedules"
    return QuotaExceeded("schedules", text, subject=f"tenants/{schedule.tenant}", limit=MAX_PER_TENANT)


def check_etag(schedule: Schedule, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or that of *schedule*."""
    if etag and etag != schedule.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{schedule.name} has changed since: read it again",
            metadata={"resource": schedule.name, "etag": schedule.etag},
        )
