"""Jobs, schedules and webhooks: resources of a tenant in their full form, for async clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from reelhaul._core import methods
from reelhaul._core.resource_requests import (
    PAGE_SIZE,
    Call,
    iterate_pages,
    new_request_id,
    resource_name,
    to_duration,
    to_mask,
    to_message,
)
from reelhaul.jobs.v1 import job_service_pb2 as jobs
from reelhaul.jobs.v1 import schedule_service_pb2 as schedules
from reelhaul.jobs.v1 import webhook_service_pb2 as webhooks
from reelhaul.jobs.v1.job_pb2 import Attempt, Job
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.webhook_pb2 import Delivery, Webhook
from reelhaul.storage.v1.storage_service_pb2 import SignArtifactUrlRequest, SignArtifactUrlResponse

# Most names of one BatchCancelJobs.
_MAX_NAMES = 1000


class AsyncJobs:
    """Jobs with everything that is known of them, named ``jobs/{id}`` or by id.

    The methods of the client itself have a simpler form of the same jobs.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    async def get(self, name: str) -> Job:
        """Return a job with its description, formats and artifacts."""
        return await self._call(methods.GET_JOB, jobs.GetJobRequest(name=resource_name("jobs", name)))

    async def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        order_by: str = "",
        full: bool = False,
    ) -> AsyncGenerator[Job, None]:
        """Yield the jobs that match *filter* (AIP-160, ListJobsRequest.filter), newest first.

        With *full*, they have descriptions and formats too.
        """
        view = jobs.JOB_VIEW_FULL if full else jobs.JOB_VIEW_UNSPECIFIED
        request = jobs.ListJobsRequest(filter=filter, order_by=order_by, view=view, page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_JOBS, request):
            for job in page.jobs:
                yield job

    async def list_attempts(self, name: str) -> AsyncGenerator[Attempt, None]:
        """Yield the attempts of a job, newest first."""
        request = jobs.ListAttemptsRequest(parent=resource_name("jobs", name), page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_ATTEMPTS, request):
            for attempt in page.attempts:
                yield attempt

    async def pause(self, name: str) -> Job:
        """Pause a job: no worker takes it until ``resume``. STATE_CONFLICT if it has ended."""
        return await self._call(methods.PAUSE_JOB, jobs.PauseJobRequest(name=resource_name("jobs", name)))

    async def resume(self, name: str) -> Job:
        """Let a paused job go on. STATE_CONFLICT if it has ended."""
        return await self._call(methods.RESUME_JOB, jobs.ResumeJobRequest(name=resource_name("jobs", name)))

    async def batch_cancel(self, names: Sequence[str]) -> Sequence[Job]:
        """Cancel jobs, those that have ended excepted; return all of them."""
        cancelled: Sequence[Job] = []
        for start in range(0, len(names), _MAX_NAMES):
            part = [resource_name("jobs", name) for name in names[start : start + _MAX_NAMES]]
            request = jobs.BatchCancelJobsRequest(names=part)
            cancelled = [*cancelled, *(await self._call(methods.BATCH_CANCEL_JOBS, request)).jobs]
        return cancelled

    async def summarize(
        self, query: jobs.SummarizeJobsRequest | Mapping[str, Any]
    ) -> jobs.SummarizeJobsResponse:
        """Return counts, bytes and latencies over time."""
        request = to_message(jobs.SummarizeJobsRequest, query)
        return await self._call(methods.SUMMARIZE_JOBS, request)

    async def sign_url(
        self, artifact: str, *, ttl_seconds: float = 3600, inline: bool = False
    ) -> SignArtifactUrlResponse:
        """Return a link to *artifact*, by name, that needs no key, for *ttl_seconds*, at most 7 days.

        With *inline*, a browser shows the file instead of saving it.
        """
        request = SignArtifactUrlRequest(
            name=resource_name("artifacts", artifact),
            ttl=to_duration(ttl_seconds),
            disposition="inline" if inline else "",
        )
        return await self._call(methods.SIGN_ARTIFACT_URL, request)


class AsyncSchedules:
    """Schedules, which create jobs at times of a cron expression, named ``schedules/{id}`` or by id."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, schedule: Schedule | Mapping[str, Any], schedule_id: str = "") -> Schedule:
        """Create a schedule, under *schedule_id* if it is given."""
        request = schedules.CreateScheduleRequest(
            schedule=to_message(Schedule, schedule), schedule_id=schedule_id, request_id=new_request_id()
        )
        return await self._call(methods.CREATE_SCHEDULE, request)

    async def get(self, name: str) -> Schedule:
        """Return a schedule."""
        return await self._call(
            methods.GET_SCHEDULE, schedules.GetScheduleRequest(name=resource_name("schedules", name))
        )

    async def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> AsyncGenerator[Schedule, None]:
        """Yield the schedules that match *filter* (ListSchedulesRequest.filter), newest first."""
        request = schedules.ListSchedulesRequest(filter=filter, page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_SCHEDULES, request):
            for schedule in page.schedules:
                yield schedule

    async def update(
        self, name: str, schedule: Schedule | Mapping[str, Any], fields: Sequence[str]
    ) -> Schedule:
        """Change *fields* of a schedule to what *schedule* has, or to their defaults."""
        changed = to_message(Schedule, schedule)
        changed.name = resource_name("schedules", name)
        request = schedules.UpdateScheduleRequest(schedule=changed, update_mask=to_mask(fields))
        return await self._call(methods.UPDATE_SCHEDULE, request)

    async def delete(self, name: str) -> None:
        """Delete a schedule; its jobs stay."""
        await self._call(
            methods.DELETE_SCHEDULE, schedules.DeleteScheduleRequest(name=resource_name("schedules", name))
        )

    async def pause(self, name: str) -> Schedule:
        """Let a schedule create no jobs until it is resumed."""
        return await self._call(
            methods.PAUSE_SCHEDULE, schedules.PauseScheduleRequest(name=resource_name("schedules", name))
        )

    async def resume(self, name: str) -> Schedule:
        """Let a paused or disabled schedule create jobs again."""
        return await self._call(
            methods.RESUME_SCHEDULE, schedules.ResumeScheduleRequest(name=resource_name("schedules", name))
        )

    async def run(self, name: str) -> Job:
        """Create a job of a schedule now, beside its times."""
        request = schedules.RunScheduleRequest(
            name=resource_name("schedules", name), request_id=new_request_id()
        )
        return await self._call(methods.RUN_SCHEDULE, request)


class AsyncWebhooks:
    """Webhooks, named ``webhooks/{id}`` or by id; deliveries are named by their full name.

    ``secret`` is set only in what ``create`` and ``rotate_secret`` return.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, webhook: Webhook | Mapping[str, Any], webhook_id: str = "") -> Webhook:
        """Create a webhook, under *webhook_id* if it is given."""
        request = webhooks.CreateWebhookRequest(
            webhook=to_message(Webhook, webhook), webhook_id=webhook_id, request_id=new_request_id()
        )
        return await self._call(methods.CREATE_WEBHOOK, request)

    async def get(self, name: str) -> Webhook:
        """Return a webhook."""
        return await self._call(
            methods.GET_WEBHOOK, webhooks.GetWebhookRequest(name=resource_name("webhooks", name))
        )

    async def list(self) -> AsyncGenerator[Webhook, None]:
        """Yield the webhooks, newest first."""
        request = webhooks.ListWebhooksRequest(page_size=PAGE_SIZE)
        async for page in iterate_pages(self._call, methods.LIST_WEBHOOKS, request):
            for webhook in page.webhooks:
                yield webhook

    async def update(self, name: str, webhook: Webhook | Mapping[str, Any], fields: Sequence[str]) -> Webhook:
        """Change *fields* of a webhook to what *webhook* has, or to their defaults."""
        changed = to_message(Webhook, webhook)
        changed.name = resource_name("webhooks", name)
        request = webhooks.UpdateWebhookRequest(webhook=changed, update_mask=to_mask(fields))
        return await self._call(methods.UPDATE_WEBHOOK, request)

    async def delete(self, name: str) -> None:
        """Delete a webhook and its deliveries."""
        await self._call(
            methods.DELETE_WEBHOOK, webhooks.DeleteWebhookRequest(name=resource_name("webhooks", name))
        )

    async def test(self, name: str) -> Delivery:
        """Send a test event; return its delivery once the endpoint has responded."""
        return await self._call(
            methods.TEST_WEBHOOK, webhooks.TestWebhookRequest(name=resource_name("webhooks", name))
        )

    async def rotate_secret(self, name: str, grace_seconds: float | None = None) -> Webhook:
        """Give a webhook a new secret; the old one signs too for *grace_seconds* more, by default a day."""
        grace = None if grace_seconds is None else to_duration(grace_seconds)
        request = webhooks.RotateWebhookSecretRequest(name=resource_name("webhooks", name), grace=grace)
        return await self._call(methods.ROTATE_WEBHOOK_SECRET, request)

    async def list_deliveries(
        self,
        name: str,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> AsyncGenerator[Delivery, None]:
        """Yield the deliveries of a webhook that match *filter* (ListDeliveriesRequest), newest first."""
        request = webhooks.ListDeliveriesRequest(
            parent=resource_name("webhooks", name), filter=filter, page_size=PAGE_SIZE
        )
        async for page in iterate_pages(self._call, methods.LIST_DELIVERIES, request):
            for delivery in page.deliveries:
                yield delivery

    async def redeliver(self, delivery: str) -> Delivery:
        """Send a delivery, by name, again."""
        request = webhooks.RedeliverDeliveryRequest(name=delivery.strip())
        return await self._call(methods.REDELIVER_DELIVERY, request)
