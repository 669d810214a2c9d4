"""JobService: converts each request, calls one use case, and converts its result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.caller_limits import CallerLimits
from reelhaul_jobs.api.jobs import batches, listing, streams, updates
from reelhaul_jobs.api.jobs.creation import JobCreation
from reelhaul_jobs.api.jobs.messages import attempt_to_proto, job_to_proto
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_runtime import identity
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """reelhaul.jobs.v1.JobService."""

    def __init__(
        self,
        creation: JobCreation,
        jobs: Jobs,
        batches: Batches,
        job_streams: JobStreams,
        filter_streams: FilterStreams,
        page_tokens: PageTokens,
        now: Clock,
        retention: timedelta,
        limits: CallerLimits = JobLimits,
    ) -> None:
        """*retention*: how long a job is kept after its end unless its caller says."""
        self._creation = creation
        self._jobs = jobs
        self._batches = batches
        self._job_streams = job_streams
        self._filter_streams = filter_streams
        self._page_tokens = page_tokens
        self._now = now
        self._retention = retention
        self._limits = limits
        self._full_messages = KeptMessages(job_to_proto)
        self._basic_messages = KeptMessages(partial(job_to_proto, detail=job_service_pb2.JOB_VIEW_BASIC))

    async def CreateJob(self, request: job_service_pb2.CreateJobRequest, context: object) -> job_pb2.Job:
        return job_to_proto(await self._creation.create(request))

    async def GetJob(  # type: ignore[override]
        self, request: job_service_pb2.GetJobRequest, context: object
    ) -> bytes:
        job_id, owner, messages = (
            fields.parse_job_id(request.name),
            fields.caller_owner(),
            self._full_messages,
        )
        return messages.serialize(await self._jobs.get_or_kept(job_id, owner, messages.find))

    async def ListJobs(  # type: ignore[override]
        self, request: job_service_pb2.ListJobsRequest, context: object
    ) -> bytes:
        query = listing.query_from_request(request, identity.caller(), self._page_tokens)
        is_full = request.view == job_service_pb2.JOB_VIEW_FULL
        messages = self._full_messages if is_full else self._basic_messages
        page = await self._jobs.page(query, messages.find)
        return listing.serialize_list(request, query, page, self._page_tokens, messages)

    async def SummarizeJobs(
        self, request: job_service_pb2.SummarizeJobsRequest, context: object
    ) -> job_service_pb2.SummarizeJobsResponse:
        query = listing.range_from_request(request, identity.caller(), self._now())
        return listing.summary_response(query, await self._jobs.summary(query))

    async def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: object) -> job_pb2.Job:
        reason = fields.check_text(request.reason, "reason", 500)
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        return job_to_proto(await self._jobs.cancel(job_id, owner, reason=reason, etag=request.etag))

    async def StopRecording(
        self, request: job_service_pb2.StopRecordingRequest, context: object
    ) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        return job_to_proto(await self._jobs.stop_recording(job_id, owner, etag=request.etag))

    async def RetryJob(self, request: job_service_pb2.RetryJobRequest, context: object) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        key = fields.idempotency_key(request, "RetryJob", identity.caller().tenant, self._now())
        return job_to_proto(await self._jobs.retry(job_id, owner, etag=request.etag, key=key))

    async def RedeliverJob(
        self, request: job_service_pb2.RedeliverJobRequest, context: object
    ) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        return job_to_proto(await self._jobs.redeliver(job_id, owner, etag=request.etag))

    async def PauseJob(self, request: job_service_pb2.PauseJobRequest, context: object) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        return job_to_proto(await self._jobs.pause(job_id, owner, etag=request.etag))

    async def ResumeJob(self, request: job_service_pb2.ResumeJobRequest, context: object) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        return job_to_proto(await self._jobs.resume(job_id, owner, etag=request.etag))

    async def UpdateJob(self, request: job_service_pb2.UpdateJobRequest, context: object) -> job_pb2.Job:
        job_id, owner = fields.parse_job_id(request.job.name, "job.name"), fields.caller_owner()
        now = self._now()
        update = updates.update_from_request(request, now, self._retention)
        update = self._limits().limit_update(update, now)
        return job_to_proto(await self._jobs.update(job_id, owner, update, etag=request.job.etag))

    async def DeleteJob(self, request: job_service_pb2.DeleteJobRequest, context: object) -> empty_pb2.Empty:
        job_id, owner = fields.parse_job_id(request.name), fields.caller_owner()
        await self._jobs.delete(job_id, owner, etag=request.etag, allow_missing=request.allow_missing)
        return empty_pb2.Empty()

    async def BatchGetJobs(
        self, request: job_service_pb2.BatchGetJobsRequest, context: object
    ) -> job_service_pb2.BatchGetJobsResponse:
        jobs = await self._batches.get(batches.parse_names(request.names), fields.caller_owner())
        views = await self._jobs.views(jobs)
        messages = batches.check_response_size([job_to_proto(view) for view in views])
        return job_service_pb2.BatchGetJobsResponse(jobs=messages)

    async def BatchCreateJobs(
        self, request: job_service_pb2.BatchCreateJobsRequest, context: object
    ) -> job_service_pb2.BatchCreateJobsResponse:
        return batches.create_response(
            await self._creation.create_batch(batches.BatchItems.from_request(request))
        )

    async def BatchCancelJobs(
        self, request: job_service_pb2.BatchCancelJobsRequest, context: object
    ) -> job_service_pb2.BatchCancelJobsResponse:
        job_ids = batches.parse_names(request.names)
        jobs = batches.in_order(job_ids, await self._batches.cancel(job_ids, fields.caller_owner()))
        return job_service_pb2.BatchCancelJobsResponse(jobs=batches.basic_protos(jobs))

    async def BatchRetryJobs(
        self, request: job_service_pb2.BatchRetryJobsRequest, context: object
    ) -> job_service_pb2.BatchRetryJobsResponse:
        key = fields.idempotency_key(request, "BatchRetryJobs", identity.caller().tenant, self._now())
        job_ids, where = batches.parse_retry(request)
        owner = fields.caller_owner() if job_ids else fields.listed_owner()
        result = await self._batches.retry(job_ids, where, owner, key, dry_run=request.validate_only)
        return job_service_pb2.BatchRetryJobsResponse(
            jobs=batches.basic_protos(result.jobs), more=result.more
        )

    async def WatchJob(  # type: ignore[override]
        self, request: job_service_pb2.WatchJobRequest, context: object
    ) -> AsyncIterator[bytes]:
        job_id, pace = fields.parse_job_id(request.name), streams.pace_from_request(request)
        owner = fields.caller_owner()
        async for message in self._job_streams.watch(job_id, owner, request.resume_token, pace):
            yield streams.serialize_message(message)

    async def WatchJobs(  # type: ignore[override]
        self, request: job_service_pb2.WatchJobsRequest, context: object
    ) -> AsyncIterator[bytes]:
        query = streams.query_from_request(request, identity.caller())
        async for message in self._filter_streams.watch(query, request.resume_token):
            yield streams.serialize_stream_message(message)

    async def GetAttempt(
        self, request: job_service_pb2.GetAttemptRequest, context: object
    ) -> job_pb2.Attempt:
        job_id, number = fields.parse_attempt_name(request.name)
        return attempt_to_proto(await self._jobs.attempt(job_id, number, fields.caller_owner()))

    async def ListAttempts(
        self, request: job_service_pb2.ListAttemptsRequest, context: object
    ) -> job_service_pb2.ListAttemptsResponse:
        job_id = fields.parse_job_id(request.parent, "parent")
        size = limit_page_size(request.page_size)
        below = listing.attempts_below(job_id, request.page_token, self._page_tokens)
        # One more than the page tells whether another page follows.
        attempts = await self._jobs.attempts(job_id, fields.caller_owner(), below=below, limit=size + 1)
        return listing.attempts_response(job_id, attempts, size, self._page_tokens)
