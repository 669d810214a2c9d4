"""ScheduleService: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import job_pb2, schedule_pb2, schedule_service_pb2, schedule_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.caller_limits import CallerLimits
from reelhaul_jobs.api.jobs.creation import check_destination
from reelhaul_jobs.api.jobs.messages import job_to_proto
from reelhaul_jobs.api.schedules import listing, messages
from reelhaul_jobs.api.schedules.validation import validate_and_normalize
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.schedule import Schedule, check_etag
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_jobs.service.schedules import Schedules, with_first_run
from reelhaul_runtime import identity
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.page_tokens import PageTokens

_DELIVER_TO = "schedule.job_template.deliver_to"


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """reelhaul.jobs.v1.ScheduleService."""

    def __init__(
        self,
        schedules: Schedules,
        storage: Storage,
        page_tokens: PageTokens,
        now: Clock,
        retention: timedelta,
        rules: Rules | None = None,
        limits: CallerLimits = JobLimits,
    ) -> None:
        """*retention*: how long a job is kept after its end unless its template says.

        *rules* are those of ``JobCreation``.
        """
        self._schedules = schedules
        self._storage = storage
        self._page_tokens = page_tokens
        self._now = now
        self._retention = retention
        self._rules = rules
        self._limits = limits

    async def CreateSchedule(
        self, request: schedule_service_pb2.CreateScheduleRequest, context: object
    ) -> schedule_pb2.Schedule:
        now, tenant = self._now(), identity.caller().tenant
        key = fields.idempotency_key(request, "CreateSchedule", tenant, now)
        message = validate_and_normalize(request.schedule, now, now, self._rules)
        schedule_id = messages.new_schedule_id(request.schedule_id)
        schedule = messages.schedule_from_proto(message, schedule_id, tenant, now, self._retention)
        schedule = replace(schedule, api_key=fields.caller_key_id(), template=self._admit(schedule))
        await check_destination(self._storage, schedule.template, _DELIVER_TO)
        if request.validate_only:
            return messages.schedule_to_proto(with_first_run(schedule))
        return messages.schedule_to_proto(await self._schedules.create(schedule, key))

    async def GetSchedule(
        self, request: schedule_service_pb2.GetScheduleRequest, context: object
    ) -> schedule_pb2.Schedule:
        tenant, schedule_id = identity.caller().tenant, messages.parse_schedule_id(request.name)
        return messages.schedule_to_proto(await self._schedules.get(tenant, schedule_id))

    async def ListSchedules(
        self, request: schedule_service_pb2.ListSchedulesRequest, context: object
    ) -> schedule_service_pb2.ListSchedulesResponse:
        schedules = await self._schedules.all(identity.caller().tenant)
        return listing.list_response(request, schedules, self._page_tokens)

    async def UpdateSchedule(
        self, request: schedule_service_pb2.UpdateScheduleRequest, context: object
    ) -> schedule_pb2.Schedule:
        now, tenant = self._now(), identity.caller().tenant
        schedule_id = messages.parse_schedule_id(request.schedule.name, "schedule.name")
        present = await self._schedules.get(tenant, schedule_id)
        check_etag(present, request.schedule.etag)
        merged = messages.merge_update(present, request)
        message = validate_and_normalize(merged, now, present.create_time, self._rules)
        wanted = messages.schedule_from_proto(message, schedule_id, tenant, now, self._retention)
        wanted = replace(wanted, template=self._admit(wanted))
        if wanted.template.deliver_to != present.template.deliver_to:
            await check_destination(self._storage, wanted.template, _DELIVER_TO)
        return messages.schedule_to_proto(await self._schedules.update(present, wanted))

    async def DeleteSchedule(
        self, request: schedule_service_pb2.DeleteScheduleRequest, context: object
    ) -> empty_pb2.Empty:
        tenant, schedule_id = identity.caller().tenant, messages.parse_schedule_id(request.name)
        await self._schedules.delete(tenant, schedule_id, request.etag)
        return empty_pb2.Empty()

    async def PauseSchedule(
        self, request: schedule_service_pb2.PauseScheduleRequest, context: object
    ) -> schedule_pb2.Schedule:
        tenant, schedule_id = identity.caller().tenant, messages.parse_schedule_id(request.name)
        return messages.schedule_to_proto(await self._schedules.pause(tenant, schedule_id))

    async def ResumeSchedule(
        self, request: schedule_service_pb2.ResumeScheduleRequest, context: object
    ) -> schedule_pb2.Schedule:
        tenant, schedule_id = identity.caller().tenant, messages.parse_schedule_id(request.name)
        return messages.schedule_to_proto(await self._schedules.resume(tenant, schedule_id))

    async def RunSchedule(
        self, request: schedule_service_pb2.RunScheduleRequest, context: object
    ) -> job_pb2.Job:
        tenant = identity.caller().tenant
        key = fields.idempotency_key(request, "RunSchedule", tenant, self._now())
        job = await self._schedules.run(tenant, messages.parse_schedule_id(request.name), key)
        return job_to_proto(JobView.from_row(job))

    def _admit(self, schedule: Schedule) -> Job:
        """Return the template of *schedule* within the caller's limits. Raises SITE_FORBIDDEN."""
        return self._limits().admit(schedule.template, self._now(), "schedule.job_template.url")
