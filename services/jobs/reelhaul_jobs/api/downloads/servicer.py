"""DownloadService: converts each flat request, calls one use case, and converts its result."""

from __future__ import annotations

from collections.abc import AsyncIterator

from reelhaul.downloads.v1 import download_pb2
from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.downloads.v1.download_service_pb2_grpc import DownloadServiceServicer
from reelhaul.jobs.v1.job_service_pb2 import RetryJobRequest
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.caller_limits import CallerLimits
from reelhaul_jobs.api.downloads import batches, requests, responses, streams
from reelhaul_jobs.api.downloads.field_names import flat_name
from reelhaul_jobs.api.downloads.info import info_response
from reelhaul_jobs.api.jobs.creation import JobCreation
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_jobs.ports.services import Clock, Probe
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_runtime import identity
from reelhaul_runtime.auth.site_rules import check_site
from reelhaul_runtime.page_tokens import PageTokens


class DownloadServicer(DownloadServiceServicer):
    """reelhaul.downloads.v1.DownloadService."""

    def __init__(
        self,
        creation: JobCreation,
        jobs: Jobs,
        job_streams: JobStreams,
        probe: Probe,
        page_tokens: PageTokens,
        now: Clock,
        limits: CallerLimits = JobLimits,
    ) -> None:
        self._creation = creation
        self._jobs = jobs
        self._job_streams = job_streams
        self._probe = probe
        self._page_tokens = page_tokens
        self._now = now
        self._limits = limits
        self._messages = KeptMessages(responses.download)

    async def CreateDownload(
        self, request: flat.CreateDownloadRequest, context: object
    ) -> download_pb2.Download:
        view = await self._creation.create(requests.create_request(request), flat_name)
        download = responses.download(view)
        if request.validate_only:
            # No job has this id.
            download.job_id = ""
        return download

    async def GetDownload(  # type: ignore[override]
        self, request: flat.GetDownloadRequest, context: object
    ) -> bytes:
        job_id, owner = fields.parse_job_id(request.job_id, "job_id"), fields.caller_owner()
        return self._messages.serialize(await self._jobs.get_or_kept(job_id, owner, self._messages.find))

    async def ListDownloads(  # type: ignore[override]
        self, request: flat.ListDownloadsRequest, context: object
    ) -> bytes:
        query = requests.list_query(request, fields.listed_owner(), self._page_tokens)
        page = await self._jobs.page(query, self._messages.find)
        return responses.serialize_list(request, query, page, self._page_tokens, self._messages)

    async def GetInfo(self, request: flat.GetInfoRequest, context: object) -> flat.GetInfoResponse:
        probe_request = requests.probe_request(request)
        check_site(request.url, "url", self._limits().sites)
        return info_response(await self._probe.probe(probe_request), probe_request.format)

    async def RetryDownload(
        self, request: flat.RetryDownloadRequest, context: object
    ) -> download_pb2.Download:
        job_id = fields.parse_job_id(request.job_id, "job_id")
        # The same key as RetryJob's: a call repeated over the other service is the same call.
        equivalent = RetryJobRequest(name=f"jobs/{job_id}", request_id=request.request_id)
        key = fields.idempotency_key(equivalent, "RetryJob", identity.caller().tenant, self._now())
        return responses.download(await self._jobs.retry(job_id, fields.caller_owner(), key=key))

    async def CancelDownload(
        self, request: flat.CancelDownloadRequest, context: object
    ) -> download_pb2.Download:
        job_id = fields.parse_job_id(request.job_id, "job_id")
        reason = fields.check_text(request.reason, "reason", 500)
        return responses.download(await self._jobs.cancel(job_id, fields.caller_owner(), reason=reason))

    async def StopRecording(
        self, request: flat.StopRecordingRequest, context: object
    ) -> download_pb2.Download:
        job_id = fields.parse_job_id(request.job_id, "job_id")
        return responses.download(await self._jobs.stop_recording(job_id, fields.caller_owner()))

    async def BatchCreateDownloads(
        self, request: flat.BatchCreateDownloadsRequest, context: object
    ) -> flat.BatchCreateDownloadsResponse:
        batch = await self._creation.create_batch(batches.items_from_request(request))
        return batches.create_response(request, batch)

    async def DeleteDownload(
        self, request: flat.DeleteDownloadRequest, context: object
    ) -> flat.DeleteDownloadResponse:
        job_id = fields.parse_job_id(request.job_id, "job_id")
        await self._jobs.delete(job_id, fields.caller_owner())
        return flat.DeleteDownloadResponse(job_id=job_id)

    async def GetStats(self, request: flat.GetStatsRequest, context: object) -> flat.GetStatsResponse:
        now, owner = self._now(), fields.listed_owner()
        past = await self._jobs.summary(requests.past_range(request, owner, now))
        return responses.stats_response(past, await self._jobs.summary(requests.active_range(owner, now)))

    async def WatchProgress(  # type: ignore[override]
        self, request: flat.WatchProgressRequest, context: object
    ) -> AsyncIterator[bytes]:
        job_id, pace = fields.parse_job_id(request.job_id, "job_id"), requests.watch_pace(request)
        owner = fields.caller_owner()
        async for message in self._job_streams.watch(job_id, owner, request.resume_token, pace):
            if content := streams.serialize_message(job_id, message):
                yield content
