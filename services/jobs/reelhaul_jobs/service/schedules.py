"""Schedules: their use cases, and the loop that creates their jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from reelhaul_jobs import metrics
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import CheckJob, Run, Schedule, check_etag
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.schedules import ScheduleStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.change_notifier import ChangeNotifier
from reelhaul_jobs.service.job_admission import JobAdmission
from reelhaul_runtime import logs
from reelhaul_runtime.errors import NotFound, from_status
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import Span

log = logging.getLogger(__name__)

_BATCH = 50


class Schedules:
    """Creates, reads and changes one tenant's schedules; another tenant's raise ``NotFound``."""

    def __init__(
        self,
        store: ScheduleStore,
        notifier: ChangeNotifier,
        now: Clock,
        admit: CheckJob,
        admission: JobAdmission | None = None,
    ) -> None:
        """*admit* and *admission* raise where a job of a schedule may no longer be created."""
        self._store = store
        self._notifier = notifier
        self._now = now
        self._admit = admit
        self._admission = admission

    async def create(self, schedule: Schedule, key: IdempotencyKey | None) -> Schedule:
        """Store *schedule*. Raises RESOURCE_EXISTS, QUOTA_EXCEEDED, REQUEST_ID_REUSED."""
        return await self._store.add(with_first_run(schedule), key)

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """Return the schedule."""
        return await self._store.get(tenant, schedule_id)

    async def all(self, tenant: str) -> Sequence[Schedule]:
        """Return all schedules of *tenant*, in no particular order."""
        return await self._store.list_all(tenant)

    async def update(self, present: Schedule, wanted: Schedule) -> Schedule:
        """Change *present* to *wanted*. ETAG_MISMATCH where it has changed since it was read."""

        def rule(schedule: Schedule) -> Schedule:
            check_etag(schedule, present.etag)
            return model.update(schedule, wanted, self._now())

        return await self._store.change(present.tenant, present.id, rule)

    async def delete(self, tenant: str, schedule_id: str, etag: str) -> None:
        """Remove the schedule and the entries that it has seen; its jobs stay. ETAG_MISMATCH."""
        await self._store.delete(tenant, schedule_id, partial(check_etag, etag=etag))

    async def pause(self, tenant: str, schedule_id: str) -> Schedule:
        """Create no more jobs until it is resumed."""
        return await self._store.change(tenant, schedule_id, lambda s: model.pause(s, self._now()))

    async def resume(self, tenant: str, schedule_id: str) -> Schedule:
        """Create jobs again. STATE_CONFLICT after its end_time."""
        return await self._store.change(tenant, schedule_id, lambda s: model.resume(s, self._now()))

    async def run(self, tenant: str, schedule_id: str, key: IdempotencyKey | None) -> Job:
        """Create a job of the schedule now. STATE_CONFLICT where it would overlap."""
        schedule = await self._store.get(tenant, schedule_id)
        checks = [self._admit, *await _present_checks(self._admission, schedule)]
        traceparent = logs.traceparent.get()

        def rule(schedule: Schedule, live: bool, admit: CheckJob) -> Run:
            traced = _in_trace(admit, traceparent)
            return model.run_now(schedule, self._now(), live, _all([*checks, traced]))

        run = await self._store.run(tenant, schedule_id, rule, key)
        assert run.job is not None
        _record_run(run)
        await self._notifier.notify_job(run.job)
        return run.job


class Scheduler:
    """Creates the jobs that are due, each once: the same transaction moves its schedule on."""

    def __init__(
        self,
        store: ScheduleStore,
        notifier: ChangeNotifier,
        now: Clock,
        admit: CheckJob,
        admission: JobAdmission | None = None,
    ) -> None:
        """*admit* and *admission* raise where a job of a schedule may no longer be created."""
        self._store = store
        self._notifier = notifier
        self._now = now
        self._admit = admit
        self._admission = admission

    async def step(self) -> bool:
        """Run the schedules that are due; return whether more may be due at once."""
        due = await self._store.list_due(self._now(), _BATCH)
        for tenant, schedule_id in due:
            with spans.trace("run schedule") as span:
                await self._run(tenant, schedule_id, span)
        return len(due) == _BATCH

    async def _run(self, tenant: str, schedule_id: str, span: Span) -> None:
        traceparent = logs.traceparent.get()

        def rule(schedule: Schedule, live: bool, admit: CheckJob) -> Run:
            traced = _in_trace(admit, traceparent)
            return model.run_if_due(schedule, self._now(), live, _all([*checks, traced]))

        span.set({"reelhaul.schedule": f"schedules/{schedule_id}"})
        try:
            schedule = await self._store.get(tenant, schedule_id)
            checks = [self._admit, *await _present_checks(self._admission, schedule)]
            run = await self._store.run(tenant, schedule_id, rule)
        except NotFound:
            return
        _record_run(run)
        if run.job is not None:
            span.set({"reelhaul.job": run.job.name})
            log.info("scheduled", extra={"schedule": run.after.name, "job": run.job.name})
            await self._notifier.notify_job(run.job)
        elif run.failed and run.after.last_error is not None:
            log.warning(
                "scheduled run failed",
                extra={
                    "schedule": run.after.name,
                    "failures": run.after.failures,
                    "cause": run.after.last_error.message,
                },
            )


def _record_run(run: Run) -> None:
    """Count *run*, unless an earlier call created it, or it is not due."""
    if run.after is run.before:
        return
    outcome = "created" if run.job is not None else "failed" if run.failed else "skipped"
    metrics.SCHEDULE_RUNS.labels(outcome).inc()
    if run.failed and run.after.last_error is not None:
        metrics.record_quota_refusal(from_status(run.after.last_error))


async def _present_checks(admission: JobAdmission | None, schedule: Schedule) -> Sequence[CheckJob]:
    """Return the checks of jobs of *schedule* that may have changed since it was created."""
    if admission is None:
        return []
    return [await admission.check_of_schedule(schedule.tenant, schedule.api_key)]


def _in_trace(admit: CheckJob, traceparent: str) -> CheckJob:
    """Return *admit* for jobs in the trace of the run, and not in that of the schedule's creation."""
    return lambda job: admit(job.replace_fields(traceparent=traceparent))


def _all(checks: Sequence[CheckJob]) -> CheckJob:
    """Return a check that raises what the first of *checks* that raises does."""

    def check(job: Job) -> None:
        for each in checks:
            each(job)

    return check


def with_first_run(schedule: Schedule) -> Schedule:
    """Return a new *schedule* with the time of its first run."""
    return replace(schedule, next_run_time=schedule.next_after(schedule.create_time))
