"""Schedules: what callers may do with them, and the loop that runs them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model import schedule as model
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.schedule import CheckJob, Run, Schedule
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.ports.schedules import ScheduleStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.notifier import ChangeNotifier
from reelhaul_runtime.errors import NotFound, ReelhaulError

log = logging.getLogger(__name__)

_BATCH = 50


class Schedules:
    """What one may do with one's schedules."""

    def __init__(self, store: ScheduleStore, news: ChangeNotifier, now: Clock, admit: CheckJob) -> None:
        self._store = store
        self._news = news
        self._now = now
        self._admit = admit

    async def create(self, schedule: Schedule, request: IdempotencyKey | None) -> Schedule:
        """Keep *schedule*. RESOURCE_EXISTS, QUOTA_EXCEEDED, REQUEST_ID_REUSED."""
        return await self._store.add(begun(schedule), request)

    async def get(self, tenant: str, schedule_id: str) -> Schedule:
        """The schedule, or ``NotFound``."""
        return await self._store.get(tenant, schedule_id)

    async def all(self, tenant: str) -> Sequence[Schedule]:
        """All of a tenant's, in no order."""
        return await self._store.list_all(tenant)

    async def update(self, present: Schedule, wanted: Schedule) -> Schedule:
        """*present* as *wanted*. ETAG_MISMATCH where it is not what it was any more."""

        def rule(schedule: Schedule) -> Schedule:
            check_etag(schedule, present.etag)
            return model.update(schedule, wanted, self._now())

        return await self._store.change(present.tenant, present.id, rule)

    async def delete(self, tenant: str, schedule_id: str, etag: str) -> None:
        """Remove it and what it remembers; its jobs stay. ETAG_MISMATCH."""
        await self._store.delete(tenant, schedule_id, partial(check_etag, etag=etag))

    async def pause(self, tenant: str, schedule_id: str) -> Schedule:
        """Make no more jobs until it is resumed."""
        return await self._store.change(tenant, schedule_id, lambda s: model.pause(s, self._now()))

    async def resume(self, tenant: str, schedule_id: str) -> Schedule:
        """Make jobs again. STATE_CONFLICT past its end_time."""
        return await self._store.change(tenant, schedule_id, lambda s: model.resume(s, self._now()))

    async def run(self, tenant: str, schedule_id: str, request: IdempotencyKey | None) -> Job:
        """A job of it, now. STATE_CONFLICT where it would overlap."""

        def rule(schedule: Schedule, live: bool) -> Run:
            return model.run_now(schedule, self._now(), live, self._admit)

        run = await self._store.run(tenant, schedule_id, rule, request)
        assert run.job is not None
        await self._news.tell_row(run.job)
        return run.job


class Scheduler:
    """The loop: makes the jobs whose time has come, each once, for a run moves its schedule on."""

    def __init__(self, store: ScheduleStore, news: ChangeNotifier, now: Clock, admit: CheckJob) -> None:
        self._store = store
        self._news = news
        self._now = now
        self._admit = admit

    async def step(self) -> bool:
        """Run what is due. Whether there may be more to do at once."""
        found = await self._store.list_due(self._now(), _BATCH)
        for tenant, schedule_id in found:
            await self._run(tenant, schedule_id)
        return len(found) == _BATCH

    async def _run(self, tenant: str, schedule_id: str) -> None:
        def rule(schedule: Schedule, live: bool) -> Run:
            return model.run_if_due(schedule, self._now(), live, self._admit)

        try:
            run = await self._store.run(tenant, schedule_id, rule)
        except NotFound:
            return
        if run.job is not None:
            log.info("scheduled", extra={"schedule": run.after.name, "job": run.job.name})
            await self._news.tell_row(run.job)
        elif run.after.failures > run.before.failures and run.after.last_error is not None:
            told = {"schedule": run.after.name, "failures": run.after.failures}
            log.warning("a run made no job", extra=told | {"cause": run.after.last_error.message})


def begun(schedule: Schedule) -> Schedule:
    """A new *schedule* with its first time."""
    return replace(schedule, next_run_time=schedule.next_after(schedule.create_time))


def check_etag(schedule: Schedule, etag: str) -> None:
    """Raise ETAG_MISMATCH unless *etag* is empty or the schedule's present one."""
    if etag and etag != schedule.etag:
        raise ReelhaulError(
            ErrorReason.ETAG_MISMATCH,
            f"{schedule.name} has changed since: read it again",
            metadata={"resource": schedule.name, "etag": schedule.etag},
        )
