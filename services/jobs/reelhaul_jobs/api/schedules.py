"""ScheduleService: proto in, one call, proto out."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import job_pb2, schedule_pb2, schedule_service_pb2, schedule_service_pb2_grpc
from reelhaul_jobs.api import schedule_listing
from reelhaul_jobs.api import schedule_messages as convert
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.api.schedule_validation import admitted
from reelhaul_jobs.model import wait_reason
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.jobs import JobView
from reelhaul_jobs.service.schedules import Schedules, begun, check_etag
from reelhaul_runtime import identity
from reelhaul_runtime.page_tokens import PageTokens


class ScheduleServicer(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """reelhaul.jobs.v1.ScheduleService."""

    def __init__(
        self, schedules: Schedules, page_tokens: PageTokens, now: Clock, retention: timedelta
    ) -> None:
        self._schedules = schedules
        self._page_tokens = page_tokens
        self._now = now
        self._retention = retention

    async def CreateSchedule(
        self, request: schedule_service_pb2.CreateScheduleRequest, context: object = None
    ) -> schedule_pb2.Schedule:
        now, tenant = self._now(), identity.caller().tenant
        once = to_jobs.request_of(request, "CreateSchedule", tenant, now)
        asked, new = admitted(request.schedule, now, now), convert.new_id(request.schedule_id)
        schedule = convert.schedule_of(asked, new, tenant, now, self._retention)
        if request.validate_only:
            return convert.proto_of(begun(schedule))
        return convert.proto_of(await self._schedules.create(schedule, once))

    async def GetSchedule(
        self, request: schedule_service_pb2.GetScheduleRequest, context: object = None
    ) -> schedule_pb2.Schedule:
        schedule_id = convert.bare_id(request.name)
        return convert.proto_of(await self._schedules.get(identity.caller().tenant, schedule_id))

    async def ListSchedules(
        self, request: schedule_service_pb2.ListSchedulesRequest, context: object = None
    ) -> schedule_service_pb2.ListSchedulesResponse:
        found = await self._schedules.all(identity.caller().tenant)
        return schedule_listing.page_of(request, found, self._page_tokens)

    async def UpdateSchedule(
        self, request: schedule_service_pb2.UpdateScheduleRequest, context: object = None
    ) -> schedule_pb2.Schedule:
        now, tenant = self._now(), identity.caller().tenant
        schedule_id = convert.bare_id(request.schedule.name, "schedule.name")
        present = await self._schedules.get(tenant, schedule_id)
        check_etag(present, request.schedule.etag)
        asked = admitted(convert.merged(present, request), now, present.create_time)
        wanted = convert.schedule_of(asked, schedule_id, tenant, now, self._retention)
        return convert.proto_of(await self._schedules.update(present, wanted))

    async def DeleteSchedule(
        self, request: schedule_service_pb2.DeleteScheduleRequest, context: object = None
    ) -> empty_pb2.Empty:
        tenant = identity.caller().tenant
        await self._schedules.delete(tenant, convert.bare_id(request.name), request.etag)
        return empty_pb2.Empty()

    async def PauseSchedule(
        self, request: schedule_service_pb2.PauseScheduleRequest, context: object = None
    ) -> schedule_pb2.Schedule:
        schedule_id = convert.bare_id(request.name)
        return convert.proto_of(await self._schedules.pause(identity.caller().tenant, schedule_id))

    async def ResumeSchedule(
        self, request: schedule_service_pb2.ResumeScheduleRequest, context: object = None
    ) -> schedule_pb2.Schedule:
        schedule_id = convert.bare_id(request.name)
        return convert.proto_of(await self._schedules.resume(identity.caller().tenant, schedule_id))

    async def RunSchedule(
        self, request: schedule_service_pb2.RunScheduleRequest, context: object = None
    ) -> job_pb2.Job:
        tenant = identity.caller().tenant
        once = to_jobs.request_of(request, "RunSchedule", tenant, self._now())
        job = await self._schedules.run(tenant, convert.bare_id(request.name), once)
        return to_jobs.proto_of(JobView(job, wait_reason.explain_wait(job)))
