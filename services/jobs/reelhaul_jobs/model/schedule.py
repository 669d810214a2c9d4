"""A schedule, and what becomes of it when its time comes. Pure."""

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
from reelhaul_runtime.errors import ReelhaulError, StateConflict, to_status

#: A run that is later than this was missed: a restart of ours is not.
START_TOLERANCE = timedelta(minutes=10)

#: Schedules that a tenant may have.
MAX_PER_TENANT = 1000

#: So many failed runs in a row stop a schedule.
MAX_FAILED_RUNS = 5


class ScheduleState(IntEnum):
    """Whether it makes jobs; numbered as Schedule.State."""

    ENABLED = 1
    #: By a user.
    PAUSED = 2
    #: By us: its runs fail, or its end has come.
    DISABLED = 3


class CatchUp(IntEnum):
    """What becomes of missed times; numbered as Schedule.CatchUp."""

    SKIP = 1
    ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A clock and a job to make."""

    tenant: str
    id: str
    cron: str
    time_zone: str = ""
    #: What each job is made from; its id and times mean nothing.
    template: Job
    skip_overlapping: bool = False
    new_entries_only: bool = False
    catch_up: CatchUp = CatchUp.SKIP
    end_time: datetime | None = None
    state: ScheduleState = ScheduleState.ENABLED
    #: When it runs next; while it does not run, when it would have.
    next_run_time: datetime | None = None
    #: Id of the newest job.
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
        """Its resource name."""
        return f"schedules/{self.id}"

    @property
    def etag(self) -> str:
        """Strong, quoted, of the revision."""
        return f'"{self.revision}"'

    @property
    def parsed_cron(self) -> Cron:
        """Its times."""
        return parse_cron(self.cron, self.time_zone, self.create_time)

    def next_after(self, moment: datetime) -> datetime | None:
        """Its first time after *moment* and not after its end; None where there is none."""
        found = self.parsed_cron.next_after(moment)
        return None if found is None or (self.end_time and found > self.end_time) else found

    def bump(self, now: datetime, **fields: Any) -> Schedule:
        """This schedule with *fields*, one revision on."""
        return replace(self, revision=self.revision + 1, update_time=now, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a rule made of a schedule, and the job that it made, if any."""

    before: Schedule
    after: Schedule
    job: Job | None = None


#: Raises what forbids a job today that was allowed when its schedule was made.
CheckJob = Callable[[Job], None]


def run_if_due(schedule: Schedule, now: datetime, live: bool, admit: CheckJob) -> Run:
    """*schedule* after its time has come; *live* says whether a job of it lives."""
    planned = schedule.next_run_time
    if schedule.state is not ScheduleState.ENABLED or planned is None or planned > now:
        return Run(before=schedule, after=schedule)
    following = schedule.next_after(now)
    moved: dict[str, Any] = {"next_run_time": following}
    if following is None:
        moved["state"] = ScheduleState.DISABLED
    if _missed(schedule, planned, now):
        return Run(before=schedule, after=schedule.bump(now, **moved))
    if schedule.skip_overlapping and live:
        left_out = to_status(_overlapping(schedule))
        return Run(before=schedule, after=schedule.bump(now, last_error=left_out, **moved))
    job = create_job(schedule, now)
    try:
        admit(job)
    except ReelhaulError as error:
        return Run(before=schedule, after=_failed(schedule, error, now, moved))
    after = schedule.bump(now, last_job=job.id, last_error=None, failures=0, **moved)
    return Run(before=schedule, after=after, job=job)


def run_now(schedule: Schedule, now: datetime, live: bool, admit: CheckJob) -> Run:
    """A job beside the clock. STATE_CONFLICT where it would overlap."""
    if schedule.skip_overlapping and live:
        raise _overlapping(schedule)
    job = create_job(schedule, now)
    admit(job)
    after = schedule.bump(now, last_job=job.id, last_error=None)
    return Run(before=schedule, after=after, job=job)


def pause(schedule: Schedule, now: datetime) -> Schedule:
    """*schedule* held until it is resumed; as it is, where it is held already."""
    if schedule.state is ScheduleState.PAUSED:
        return schedule
    return schedule.bump(now, state=ScheduleState.PAUSED)


def resume(schedule: Schedule, now: datetime) -> Schedule:
    """*schedule* at work again; as it is, where it is so already. STATE_CONFLICT past its end."""
    if schedule.state is ScheduleState.ENABLED:
        return schedule
    missed = schedule.next_run_time
    following = missed if schedule.catch_up is CatchUp.ONCE and missed else schedule.next_after(now)
    if following is None or (schedule.end_time and schedule.end_time <= now):
        raise StateConflict(schedule.name, schedule.state.name, f"{schedule.name} is past its end_time")
    return schedule.bump(now, state=ScheduleState.ENABLED, failures=0, next_run_time=following)


def update(schedule: Schedule, wanted: Schedule, now: datetime) -> Schedule:
    """*schedule* as *wanted*; its times begin anew where they are others."""
    after = schedule.bump(
        now,
        cron=wanted.cron,
        time_zone=wanted.time_zone,
        template=wanted.template,
        skip_overlapping=wanted.skip_overlapping,
        new_entries_only=wanted.new_entries_only,
        catch_up=wanted.catch_up,
        end_time=wanted.end_time,
    )
    if (after.cron, after.time_zone, after.end_time) == (
        schedule.cron,
        schedule.time_zone,
        schedule.end_time,
    ):
        return after
    return replace(after, next_run_time=after.next_after(now))


def create_job(schedule: Schedule, now: datetime) -> Job:
    """A job of *schedule*."""
    new = ids.new_id(now)
    job = replace(
        schedule.template,
        id=new,
        tenant=schedule.tenant,
        create_time=now,
        update_time=now,
        schedule=schedule.id,
        batch_id=new if schedule.template.kind is Kind.EXPANSION else "",
    )
    return queue_transitions.enqueue(job)


def _missed(schedule: Schedule, planned: datetime, now: datetime) -> bool:
    if schedule.catch_up is CatchUp.ONCE or now - planned <= START_TOLERANCE:
        return False
    newest = schedule.next_after(now - START_TOLERANCE)
    return newest is None or newest > now


def _overlapping(schedule: Schedule) -> ReelhaulError:
    return StateConflict(schedule.name, "RUNNING", f"left out: a job of {schedule.name} is live")


def _failed(schedule: Schedule, error: ReelhaulError, now: datetime, moved: dict[str, Any]) -> Schedule:
    failures = schedule.failures + 1
    told = retries.normalize_error(to_status(error))
    if failures >= MAX_FAILED_RUNS:
        moved = {"next_run_time": None, "state": ScheduleState.DISABLED}
    return schedule.bump(now, failures=failures, last_error=told, **moved)


def already_exists(schedule: Schedule) -> ReelhaulError:
    """Its id is taken."""
    text = f"{schedule.name} exists"
    return ReelhaulError(ErrorReason.RESOURCE_EXISTS, text, metadata={"resource": schedule.name})


def quota_exceeded() -> ReelhaulError:
    """The tenant has as many as it may."""
    told = {"quotaMetric": "schedules", "resetTime": ""}
    return ReelhaulError(
        ErrorReason.QUOTA_EXCEEDED, f"a tenant has at most {MAX_PER_TENANT} schedules", metadata=told
    )


def check_etag(schedule: Schedule, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or the schedule's present one."""
    if etag and etag != schedule.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{schedule.name} has changed since: read it again",
            metadata={"resource": schedule.name, "etag": schedule.etag},
        )
