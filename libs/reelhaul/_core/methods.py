"""Methods: the RPCs that the clients call, with the types of their requests and responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf import descriptor, descriptor_pb2, empty_pb2
from google.protobuf.message import Message

from reelhaul.admin.v1 import api_key_pb2, api_key_service_pb2, tenant_pb2, tenant_service_pb2
from reelhaul.downloads.v1 import download_pb2, download_service_pb2
from reelhaul.jobs.v1 import (
    job_pb2,
    job_service_pb2,
    schedule_pb2,
    schedule_service_pb2,
    webhook_pb2,
    webhook_service_pb2,
)
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.system.v1 import system_service_pb2

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """An RPC."""

    descriptor: descriptor.MethodDescriptor
    request: type[Q]
    response: type[R]

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.descriptor.containing_service.full_name

    @property
    def path(self) -> str:
        """Its path in gRPC."""
        return f"/{self.service}/{self.descriptor.name}"

    def is_repeatable(self, request: Q) -> bool:
        """Return whether *request* may be sent twice: nothing is done a second time.

        The server says so by ``idempotency_level``, from which the service config of gRPC takes it too,
        or has a ``request_id`` to recognise the request by.
        """
        unknown = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
        level = self.descriptor.GetOptions().idempotency_level
        return level != unknown or bool(getattr(request, "request_id", ""))


def _method(
    service: descriptor.ServiceDescriptor, name: str, request: type[Q], response: type[R]
) -> Method[Q, R]:
    return Method(service.methods_by_name[name], request, response)


_DOWNLOADS = download_service_pb2.DESCRIPTOR.services_by_name["DownloadService"]
_JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
_SCHEDULES = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"]
_WEBHOOKS = webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"]
_KEYS = api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"]
_TENANTS = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"]
_STORAGE = storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"]
_SYSTEM = system_service_pb2.DESCRIPTOR.services_by_name["SystemService"]

CREATE_DOWNLOAD = _method(
    _DOWNLOADS, "CreateDownload", download_service_pb2.CreateDownloadRequest, download_pb2.Download
)
GET_DOWNLOAD = _method(
    _DOWNLOADS, "GetDownload", download_service_pb2.GetDownloadRequest, download_pb2.Download
)
LIST_DOWNLOADS = _method(
    _DOWNLOADS,
    "ListDownloads",
    download_service_pb2.ListDownloadsRequest,
    download_service_pb2.ListDownloadsResponse,
)
GET_INFO = _method(
    _DOWNLOADS, "GetInfo", download_service_pb2.GetInfoRequest, download_service_pb2.GetInfoResponse
)
RETRY_DOWNLOAD = _method(
    _DOWNLOADS, "RetryDownload", download_service_pb2.RetryDownloadRequest, download_pb2.Download
)
CANCEL_DOWNLOAD = _method(
    _DOWNLOADS, "CancelDownload", download_service_pb2.CancelDownloadRequest, download_pb2.Download
)
STOP_RECORDING = _method(
    _DOWNLOADS, "StopRecording", download_service_pb2.StopRecordingRequest, download_pb2.Download
)
BATCH_CREATE_DOWNLOADS = _method(
    _DOWNLOADS,
    "BatchCreateDownloads",
    download_service_pb2.BatchCreateDownloadsRequest,
    download_service_pb2.BatchCreateDownloadsResponse,
)
DELETE_DOWNLOAD = _method(
    _DOWNLOADS,
    "DeleteDownload",
    download_service_pb2.DeleteDownloadRequest,
    download_service_pb2.DeleteDownloadResponse,
)
GET_STATS = _method(
    _DOWNLOADS, "GetStats", download_service_pb2.GetStatsRequest, download_service_pb2.GetStatsResponse
)
WATCH_PROGRESS = _method(
    _DOWNLOADS,
    "WatchProgress",
    download_service_pb2.WatchProgressRequest,
    download_service_pb2.WatchProgressResponse,
)

GET_JOB = _method(_JOBS, "GetJob", job_service_pb2.GetJobRequest, job_pb2.Job)
LIST_JOBS = _method(_JOBS, "ListJobs", job_service_pb2.ListJobsRequest, job_service_pb2.ListJobsResponse)
BATCH_CANCEL_JOBS = _method(
    _JOBS, "BatchCancelJobs", job_service_pb2.BatchCancelJobsRequest, job_service_pb2.BatchCancelJobsResponse
)
SUMMARIZE_JOBS = _method(
    _JOBS, "SummarizeJobs", job_service_pb2.SummarizeJobsRequest, job_service_pb2.SummarizeJobsResponse
)
PAUSE_JOB = _method(_JOBS, "PauseJob", job_service_pb2.PauseJobRequest, job_pb2.Job)
RESUME_JOB = _method(_JOBS, "ResumeJob", job_service_pb2.ResumeJobRequest, job_pb2.Job)
LIST_ATTEMPTS = _method(
    _JOBS, "ListAttempts", job_service_pb2.ListAttemptsRequest, job_service_pb2.ListAttemptsResponse
)
WATCH_JOBS = _method(_JOBS, "WatchJobs", job_service_pb2.WatchJobsRequest, job_service_pb2.WatchJobsResponse)

CREATE_SCHEDULE = _method(
    _SCHEDULES, "CreateSchedule", schedule_service_pb2.CreateScheduleRequest, schedule_pb2.Schedule
)
GET_SCHEDULE = _method(
    _SCHEDULES, "GetSchedule", schedule_service_pb2.GetScheduleRequest, schedule_pb2.Schedule
)
LIST_SCHEDULES = _method(
    _SCHEDULES,
    "ListSchedules",
    schedule_service_pb2.ListSchedulesRequest,
    schedule_service_pb2.ListSchedulesResponse,
)
UPDATE_SCHEDULE = _method(
    _SCHEDULES, "UpdateSchedule", schedule_service_pb2.UpdateScheduleRequest, schedule_pb2.Schedule
)
DELETE_SCHEDULE = _method(
    _SCHEDULES, "DeleteSchedule", schedule_service_pb2.DeleteScheduleRequest, empty_pb2.Empty
)
PAUSE_SCHEDULE = _method(
    _SCHEDULES, "PauseSchedule", schedule_service_pb2.PauseScheduleRequest, schedule_pb2.Schedule
)
RESUME_SCHEDULE = _method(
    _SCHEDULES, "ResumeSchedule", schedule_service_pb2.ResumeScheduleRequest, schedule_pb2.Schedule
)
RUN_SCHEDULE = _method(_SCHEDULES, "RunSchedule", schedule_service_pb2.RunScheduleRequest, job_pb2.Job)

CREATE_WEBHOOK = _method(
    _WEBHOOKS, "CreateWebhook", webhook_service_pb2.CreateWebhookRequest, webhook_pb2.Webhook
)
GET_WEBHOOK = _method(_WEBHOOKS, "GetWebhook", webhook_service_pb2.GetWebhookRequest, webhook_pb2.Webhook)
LIST_WEBHOOKS = _method(
    _WEBHOOKS,
    "ListWebhooks",
    webhook_service_pb2.ListWebhooksRequest,
    webhook_service_pb2.ListWebhooksResponse,
)
UPDATE_WEBHOOK = _method(
    _WEBHOOKS, "UpdateWebhook", webhook_service_pb2.UpdateWebhookRequest, webhook_pb2.Webhook
)
DELETE_WEBHOOK = _method(
    _WEBHOOKS, "DeleteWebhook", webhook_service_pb2.DeleteWebhookRequest, empty_pb2.Empty
)
TEST_WEBHOOK = _method(_WEBHOOKS, "TestWebhook", webhook_service_pb2.TestWebhookRequest, webhook_pb2.Delivery)
ROTATE_WEBHOOK_SECRET = _method(
    _WEBHOOKS, "RotateWebhookSecret", webhook_service_pb2.RotateWebhookSecretRequest, webhook_pb2.Webhook
)
LIST_DELIVERIES = _method(
    _WEBHOOKS,
    "ListDeliveries",
    webhook_service_pb2.ListDeliveriesRequest,
    webhook_service_pb2.ListDeliveriesResponse,
)
REDELIVER_DELIVERY = _method(
    _WEBHOOKS, "RedeliverDelivery", webhook_service_pb2.RedeliverDeliveryRequest, webhook_pb2.Delivery
)

CREATE_API_KEY = _method(_KEYS, "CreateApiKey", api_key_service_pb2.CreateApiKeyRequest, api_key_pb2.ApiKey)
GET_API_KEY = _method(_KEYS, "GetApiKey", api_key_service_pb2.GetApiKeyRequest, api_key_pb2.ApiKey)
LIST_API_KEYS = _method(
    _KEYS, "ListApiKeys", api_key_service_pb2.ListApiKeysRequest, api_key_service_pb2.ListApiKeysResponse
)
UPDATE_API_KEY = _method(_KEYS, "UpdateApiKey", api_key_service_pb2.UpdateApiKeyRequest, api_key_pb2.ApiKey)
DELETE_API_KEY = _method(_KEYS, "DeleteApiKey", api_key_service_pb2.DeleteApiKeyRequest, api_key_pb2.ApiKey)
UNDELETE_API_KEY = _method(
    _KEYS, "UndeleteApiKey", api_key_service_pb2.UndeleteApiKeyRequest, api_key_pb2.ApiKey
)
ROTATE_API_KEY = _method(_KEYS, "RotateApiKey", api_key_service_pb2.RotateApiKeyRequest, api_key_pb2.ApiKey)

CREATE_TENANT = _method(_TENANTS, "CreateTenant", tenant_service_pb2.CreateTenantRequest, tenant_pb2.Tenant)
GET_TENANT = _method(_TENANTS, "GetTenant", tenant_service_pb2.GetTenantRequest, tenant_pb2.Tenant)
LIST_TENANTS = _method(
    _TENANTS, "ListTenants", tenant_service_pb2.ListTenantsRequest, tenant_service_pb2.ListTenantsResponse
)
UPDATE_TENANT = _method(_TENANTS, "UpdateTenant", tenant_service_pb2.UpdateTenantRequest, tenant_pb2.Tenant)
DELETE_TENANT = _method(_TENANTS, "DeleteTenant", tenant_service_pb2.DeleteTenantRequest, tenant_pb2.Tenant)
GET_TENANT_USAGE = _method(
    _TENANTS, "GetTenantUsage", tenant_service_pb2.GetTenantUsageRequest, api_key_pb2.Usage
)

READ_ARTIFACT = _method(
    _STORAGE,
    "ReadArtifact",
    storage_service_pb2.ReadArtifactRequest,
    storage_service_pb2.ReadArtifactResponse,
)
SIGN_ARTIFACT_URL = _method(
    _STORAGE,
    "SignArtifactUrl",
    storage_service_pb2.SignArtifactUrlRequest,
    storage_service_pb2.SignArtifactUrlResponse,
)
SET_LOG_LEVEL = _method(
    _SYSTEM, "SetLogLevel", system_service_pb2.SetLogLevelRequest, system_service_pb2.SetLogLevelResponse
)
