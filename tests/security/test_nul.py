"""NUL in any text of a request is refused or harmless, also on PostgreSQL, whose statements fail on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tests.jobs.conftest import TOKEN, run_service
from tests.postgresql import migrated_database
from tests.servers import free_port, running_nats_server

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1 import download_service_pb2_grpc
from reelhaul.jobs.v1 import job_service_pb2 as jobs
from reelhaul.jobs.v1 import job_service_pb2_grpc, schedule_service_pb2_grpc, webhook_service_pb2_grpc
from reelhaul.jobs.v1 import schedule_service_pb2 as schedules
from reelhaul.jobs.v1 import webhook_service_pb2 as webhooks
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.webhook_pb2 import Webhook
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.settings import Settings
from reelhaul_runtime.rpc.channels import error_from_rpc, open_channel

pytestmark = pytest.mark.processes

NUL = "a\0b"
URL = "https://videos.example/1"
JOB = "01990000-0000-7000-8000-000000000001"
WEBHOOK = Webhook(url="https://93.184.215.14/", filter='url = "a"', event_types=["job.failed"])
SCHEDULE = Schedule(cron="@daily", job_template=Job(url=URL, labels={"team": "a"}))

#: A request that each RPC accepts, or answers with RESOURCE_NOT_FOUND.
REQUESTS: list[tuple[str, Message]] = [
    ("CreateJob", jobs.CreateJobRequest(job=Job(url=URL, labels={"team": "a"}))),
    ("GetJob", jobs.GetJobRequest(name=f"jobs/{JOB}")),
    ("ListJobs", jobs.ListJobsRequest()),
    ("UpdateJob", jobs.UpdateJobRequest(job=Job(name=f"jobs/{JOB}", labels={"team": "a"}))),
    ("DeleteJob", jobs.DeleteJobRequest(name=f"jobs/{JOB}")),
    ("CancelJob", jobs.CancelJobRequest(name=f"jobs/{JOB}")),
    ("RetryJob", jobs.RetryJobRequest(name=f"jobs/{JOB}")),
    ("BatchCreateJobs", jobs.BatchCreateJobsRequest(requests=[jobs.CreateJobRequest(job=Job(url=URL))])),
    ("BatchRetryJobs", jobs.BatchRetryJobsRequest(filter='url = "a"')),
    ("SummarizeJobs", jobs.SummarizeJobsRequest()),
    ("ListAttempts", jobs.ListAttemptsRequest(parent=f"jobs/{JOB}")),
    ("CreateSchedule", schedules.CreateScheduleRequest(schedule=SCHEDULE)),
    ("GetSchedule", schedules.GetScheduleRequest(name="schedules/a")),
    ("ListSchedules", schedules.ListSchedulesRequest()),
    ("DeleteSchedule", schedules.DeleteScheduleRequest(name="schedules/a")),
    ("RunSchedule", schedules.RunScheduleRequest(name="schedules/a")),
    ("CreateWebhook", webhooks.CreateWebhookRequest(webhook=WEBHOOK)),
    ("GetWebhook", webhooks.GetWebhookRequest(name="webhooks/a")),
    ("ListWebhooks", webhooks.ListWebhooksRequest()),
    ("DeleteWebhook", webhooks.DeleteWebhookRequest(name="webhooks/a")),
    ("ListDeliveries", webhooks.ListDeliveriesRequest(parent="webhooks/a", filter='event_id = "a"')),
    ("GetDelivery", webhooks.GetDeliveryRequest(name=f"webhooks/a/deliveries/{JOB}")),
    ("CreateDownload", flat.CreateDownloadRequest(url=URL, labels={"team": "a"})),
    ("GetDownload", flat.GetDownloadRequest(job_id=JOB)),
    ("ListDownloads", flat.ListDownloadsRequest()),
    ("RetryDownload", flat.RetryDownloadRequest(job_id=JOB)),
    ("CancelDownload", flat.CancelDownloadRequest(job_id=JOB)),
    ("BatchCreateDownloads", flat.BatchCreateDownloadsRequest(urls=[URL])),
]


class Stubs:
    """The stubs of all public services of jobs in one."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stubs = (
            job_service_pb2_grpc.JobServiceStub(channel),
            schedule_service_pb2_grpc.ScheduleServiceStub(channel),
            webhook_service_pb2_grpc.WebhookServiceStub(channel),
            download_service_pb2_grpc.DownloadServiceStub(channel),
        )

    async def reason(self, method: str, request: Message) -> str:
        """Return the reason of the call's failure; empty if it succeeds."""
        call = next(getattr(stub, method) for stub in self._stubs if hasattr(stub, method))
        try:
            async with asyncio.timeout(20):
                await call(request)
        except grpc.aio.AioRpcError as error:
            return ErrorReason.Name(error_from_rpc(error, "jobs").reason)
        return ""


@pytest.fixture
async def stubs(tmp_path: Path) -> AsyncIterator[Stubs]:
    """A jobs service on PostgreSQL."""
    with migrated_database("reelhaul_jobs") as url:
        async with running_nats_server(tmp_path / "nats") as server:
            settings = Settings(
                data_dir=tmp_path,
                nats_url=server.url,
                jobs_address="127.0.0.1:0",
                jobs_database_url=url,
                storage_address=f"127.0.0.1:{free_port()}",
                fetcher_address=f"127.0.0.1:{free_port()}",
                suite_token=TOKEN,
                drain_seconds=1,
            )
            async with (
                run_service(settings) as service,
                open_channel(f"127.0.0.1:{service.port}", []) as channel,
            ):
                yield Stubs(channel)


def with_nul(message: Message) -> Iterator[tuple[str, Message]]:
    """Yield a copy of *message* for each of its texts, set or not, with NUL in that one."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            copy = copy_of(message)
            text = f'url = "{NUL}"' if field.name == "filter" else NUL
            if field.is_repeated:
                getattr(copy, field.name).append(text)
            else:
                setattr(copy, field.name, text)
            yield field.name, copy
        elif field.message_type is None or not field.message_type.full_name.startswith("reelhaul."):
            continue
        elif field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                copy = copy_of(message)
                getattr(copy, field.name)["team"] = NUL
                yield field.name, copy
        elif not field.is_repeated:
            for path, changed in with_nul(getattr(message, field.name)):
                copy = copy_of(message)
                getattr(copy, field.name).CopyFrom(changed)
                yield f"{field.name}.{path}", copy
        elif elements := getattr(message, field.name):
            for path, changed in with_nul(elements[0]):
                copy = copy_of(message)
                getattr(copy, field.name)[0].CopyFrom(changed)
                yield f"{field.name}.{path}", copy


def copy_of(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


async def test_nul_in_every_text(stubs: Stubs) -> None:
    """No text of any request makes the service fail; the same requests without NUL are served."""
    for method, request in REQUESTS:
        assert await stubs.reason(method, request) in ("", "RESOURCE_NOT_FOUND"), method
    failed, count = [], 0
    for method, request in REQUESTS:
        for path, changed in with_nul(request):
            count += 1
            reason = await stubs.reason(method, changed)
            if reason in ("INTERNAL_ERROR", "SERVICE_UNAVAILABLE"):
                failed.append((method, path, reason))
    assert not failed
    assert count > 100
