"""DownloadService: each call is one call of JobService, told flat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from reelhaul.downloads.v1 import download_pb2 as flat
from reelhaul.downloads.v1 import download_service_pb2 as service
from reelhaul.downloads.v1.download_service_pb2_grpc import DownloadServiceServicer
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api.downloads import batches, requests, responses, stats
from reelhaul_jobs.api.downloads.error_fields import with_flat_field_names
from reelhaul_jobs.api.downloads.info import info
from reelhaul_jobs.api.downloads.streams import bytes_of
from reelhaul_jobs.service.watch.messages import Message


class JobApi(Protocol):
    """JobService as its servicer serves it; the context is the call's own, passed on."""

    async def CreateJob(self, request: job_service_pb2.CreateJobRequest, context: Any) -> job_pb2.Job:
        """See the proto."""

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        """See the proto."""

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: Any
    ) -> job_service_pb2.ListJobsResponse:
        """See the proto."""

    async def RetryJob(self, request: job_service_pb2.RetryJobRequest, context: Any) -> job_pb2.Job:
        """See the proto."""

    async def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: Any) -> job_pb2.Job:
        """See the proto."""

    async def StopRecording(self, request: job_service_pb2.StopRecordingRequest, context: Any) -> job_pb2.Job:
        """See the proto."""

    async def DeleteJob(self, request: job_service_pb2.DeleteJobRequest, context: Any) -> object:
        """See the proto."""

    async def BatchCreateJobs(
        self, request: job_service_pb2.BatchCreateJobsRequest, context: Any
    ) -> job_service_pb2.BatchCreateJobsResponse:
        """See the proto."""

    async def SummarizeJobs(
        self, request: job_service_pb2.SummarizeJobsRequest, context: Any
    ) -> job_service_pb2.SummarizeJobsResponse:
        """See the proto."""

    def watched(self, request: job_service_pb2.WatchJobRequest) -> AsyncIterator[Message]:
        """The messages of WatchJob, not yet serialised."""


class MediaProbe(Protocol):
    """FetcherService.ProbeMedia, wherever it runs."""

    async def probe(
        self, request: fetcher_service_pb2.ProbeMediaRequest
    ) -> fetcher_service_pb2.ProbeMediaResponse:
        """See the proto. Raises what the site's answer means; SERVICE_UNAVAILABLE."""


class DownloadServicer(DownloadServiceServicer):
    """The simple door, over the same jobs as JobService."""

    def __init__(self, jobs: JobApi, media: MediaProbe) -> None:
        self._jobs = jobs
        self._media = media

    async def CreateDownload(self, request: service.CreateDownloadRequest, context: Any) -> flat.Download:
        asked = requests.create(request)
        with with_flat_field_names():
            return responses.created(await self._jobs.CreateJob(asked, context), asked)

    async def GetDownload(self, request: service.GetDownloadRequest, context: Any) -> flat.Download:
        asked = job_service_pb2.GetJobRequest(name=requests.name(request.job_id))
        with with_flat_field_names():
            return responses.download(await self._jobs.GetJob(asked, context))

    async def ListDownloads(
        self, request: service.ListDownloadsRequest, context: Any
    ) -> service.ListDownloadsResponse:
        asked = requests.listing(request)
        with with_flat_field_names():
            page = await self._jobs.ListJobs(asked, context)
        return service.ListDownloadsResponse(
            jobs=[responses.download(job) for job in page.jobs],
            next_page_token=page.next_page_token,
            total=page.total_size,
            page=0 if request.page_token else max(request.page, 1),
        )

    async def GetInfo(self, request: service.GetInfoRequest, context: Any) -> service.GetInfoResponse:
        asked = requests.probe(request)
        with with_flat_field_names():
            return info(await self._media.probe(asked), asked.format)

    async def RetryDownload(self, request: service.RetryDownloadRequest, context: Any) -> flat.Download:
        asked = job_service_pb2.RetryJobRequest(
            name=requests.name(request.job_id), request_id=request.request_id
        )
        with with_flat_field_names():
            return responses.download(await self._jobs.RetryJob(asked, context))

    async def CancelDownload(self, request: service.CancelDownloadRequest, context: Any) -> flat.Download:
        asked = job_service_pb2.CancelJobRequest(name=requests.name(request.job_id), reason=request.reason)
        with with_flat_field_names():
            return responses.download(await self._jobs.CancelJob(asked, context))

    async def StopRecording(self, request: service.StopRecordingRequest, context: Any) -> flat.Download:
        asked = job_service_pb2.StopRecordingRequest(name=requests.name(request.job_id))
        with with_flat_field_names():
            return responses.download(await self._jobs.StopRecording(asked, context))

    async def BatchCreateDownloads(
        self, request: service.BatchCreateDownloadsRequest, context: Any
    ) -> service.BatchCreateDownloadsResponse:
        asked = batches.asked_of(request)
        with asked.told_flat():
            return asked.answer(await self._jobs.BatchCreateJobs(asked.jobs, context))

    async def DeleteDownload(
        self, request: service.DeleteDownloadRequest, context: Any
    ) -> service.DeleteDownloadResponse:
        asked = job_service_pb2.DeleteJobRequest(name=requests.name(request.job_id))
        with with_flat_field_names():
            await self._jobs.DeleteJob(asked, context)
        return service.DeleteDownloadResponse(job_id=request.job_id.removeprefix("jobs/"))

    async def GetStats(self, request: service.GetStatsRequest, context: Any) -> service.GetStatsResponse:
        with with_flat_field_names():
            past = await self._jobs.SummarizeJobs(stats.over_time(request), context)
            return stats.answer(past, await self._jobs.SummarizeJobs(stats.now(), context))

    async def WatchProgress(  # type: ignore[override]
        self, request: service.WatchProgressRequest, context: Any
    ) -> AsyncIterator[bytes]:
        with with_flat_field_names():
            async for message in self._jobs.watched(requests.watch(request)):
                if told := bytes_of(request.job_id, message):
                    yield told
