"""JobService: proto in, one call, proto out.

The methods of JobServicer need no context: who calls is told by ``identity.caller()``, so
that DownloadService calls them as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from google.protobuf import empty_pb2

from reelhaul.jobs.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import batches, listing, streams, summaries
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.api.jobs.template_cache import JobTemplateCache, NewJobContext
from reelhaul_jobs.api.jobs.update_validation import paths_of
from reelhaul_jobs.api.jobs.updates import update_of
from reelhaul_jobs.model import ids, wait_reason
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.jobs import Jobs, JobView, Owner
from reelhaul_jobs.service.watch.filter_stream import FilterStreams
from reelhaul_jobs.service.watch.job_stream import JobStreams
from reelhaul_jobs.service.watch.messages import Message
from reelhaul_runtime import identity, logs
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.page_tokens import PageTokens


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """reelhaul.jobs.v1.JobService."""

    def __init__(
        self,
        jobs: Jobs,
        batches: Batches,
        watching: JobStreams,
        following: FilterStreams,
        page_tokens: PageTokens,
        now: Clock,
        retention: timedelta,
    ) -> None:
        self._jobs = jobs
        self._batches = batches
        self._watches = watching
        self._followings = following
        self._page_tokens = page_tokens
        self._now = now
        self._retention = retention
        self._forms = JobTemplateCache(retention)

    async def CreateJob(
        self, request: job_service_pb2.CreateJobRequest, context: object = None
    ) -> job_pb2.Job:
        now, tenant = self._now(), identity.caller().tenant
        once = to_jobs.request_of(request, "CreateJob", tenant, now)
        try:
            birth = NewJobContext(tenant, now, logs.traceparent.get())
            job = self._forms.job_of(request.job, request.job_id or ids.new_id(now), birth)
        except ReelhaulError:
            # What was good once is so when it is repeated, though its schedule_time has passed since.
            if (seen := await self._jobs.created(once)) is None:
                raise
            return to_jobs.proto_of(seen)
        if request.validate_only:
            return to_jobs.proto_of(await self._jobs.preflight(job))
        return to_jobs.proto_of(await self._jobs.create(job, once))

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: object = None) -> job_pb2.Job:
        return to_jobs.proto_of(await self._jobs.get(fields.job_id(request.name), _owner()))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: object = None
    ) -> job_service_pb2.ListJobsResponse:
        query = listing.query_of(request, identity.caller(), self._page_tokens)
        page = await self._jobs.page(query)
        shown = (self._seen(job) for job in page.jobs)
        return listing.answer_of(request, query, page, shown, self._page_tokens)

    async def SummarizeJobs(
        self, request: job_service_pb2.SummarizeJobsRequest, context: object = None
    ) -> job_service_pb2.SummarizeJobsResponse:
        asked = summaries.range_of(request, identity.caller(), self._now())
        return summaries.answer_of(asked, await self._jobs.summary(asked))

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: object = None
    ) -> job_pb2.Job:
        reason = fields.text(request.reason, "reason", 500)
        job_id = fields.job_id(request.name)
        return to_jobs.proto_of(await self._jobs.cancel(job_id, _owner(), reason=reason, etag=request.etag))

    async def StopRecording(
        self, request: job_service_pb2.StopRecordingRequest, context: object = None
    ) -> job_pb2.Job:
        job_id = fields.job_id(request.name)
        return to_jobs.proto_of(await self._jobs.stop_recording(job_id, _owner(), etag=request.etag))

    async def RetryJob(self, request: job_service_pb2.RetryJobRequest, context: object = None) -> job_pb2.Job:
        job_id, tenant = fields.job_id(request.name), identity.caller().tenant
        once = to_jobs.request_of(request, "RetryJob", tenant, self._now())
        return to_jobs.proto_of(await self._jobs.retry(job_id, _owner(), etag=request.etag, request=once))

    async def PauseJob(self, request: job_service_pb2.PauseJobRequest, context: object = None) -> job_pb2.Job:
        job_id = fields.job_id(request.name)
        return to_jobs.proto_of(await self._jobs.pause(job_id, _owner(), etag=request.etag))

    async def ResumeJob(
        self, request: job_service_pb2.ResumeJobRequest, context: object = None
    ) -> job_pb2.Job:
        job_id = fields.job_id(request.name)
        return to_jobs.proto_of(await self._jobs.resume(job_id, _owner(), etag=request.etag))

    async def UpdateJob(
        self, request: job_service_pb2.UpdateJobRequest, context: object = None
    ) -> job_pb2.Job:
        job_id = fields.job_id(request.job.name, "job.name")
        update = update_of(request, paths_of(request, self._now()), self._retention)
        return to_jobs.proto_of(await self._jobs.update(job_id, _owner(), update, etag=request.job.etag))

    async def DeleteJob(
        self, request: job_service_pb2.DeleteJobRequest, context: object = None
    ) -> empty_pb2.Empty:
        job_id = fields.job_id(request.name)
        await self._jobs.delete(job_id, _owner(), etag=request.etag, allow_missing=request.allow_missing)
        return empty_pb2.Empty()

    async def BatchGetJobs(
        self, request: job_service_pb2.BatchGetJobsRequest, context: object = None
    ) -> job_service_pb2.BatchGetJobsResponse:
        found = await self._batches.get(batches.named(request.names), _owner())
        shown = [to_jobs.proto_of(self._seen(job)) for job in found]
        return job_service_pb2.BatchGetJobsResponse(jobs=listing.light_enough(shown))

    async def BatchCreateJobs(
        self, request: job_service_pb2.BatchCreateJobsRequest, context: object = None
    ) -> job_service_pb2.BatchCreateJobsResponse:
        now, tenant = self._now(), identity.caller().tenant
        once = to_jobs.request_of(request, "BatchCreateJobs", tenant, now)
        try:
            asked = batches.batch_of(request, tenant, now, self._forms)
        except ReelhaulError:
            # As in CreateJob.
            if (earlier := await self._batches.created(once)) is None:
                raise
            return batches.created(earlier)
        kept = await self._batches.create(asked, once, partly=request.return_partial_success)
        return batches.created(kept)

    async def BatchCancelJobs(
        self, request: job_service_pb2.BatchCancelJobsRequest, context: object = None
    ) -> job_service_pb2.BatchCancelJobsResponse:
        asked = batches.named(request.names)
        done = batches.in_order(asked, await self._batches.cancel(asked, _owner()))
        return job_service_pb2.BatchCancelJobsResponse(jobs=batches.basic(done))

    async def BatchRetryJobs(
        self, request: job_service_pb2.BatchRetryJobsRequest, context: object = None
    ) -> job_service_pb2.BatchRetryJobsResponse:
        once = to_jobs.request_of(request, "BatchRetryJobs", identity.caller().tenant, self._now())
        asked = batches.retry_of(request)
        done = await self._batches.retry(asked, _owner(), once, only_look=request.validate_only)
        return job_service_pb2.BatchRetryJobsResponse(jobs=batches.basic(done.jobs), more=done.more)

    async def WatchJob(  # type: ignore[override]
        self, request: job_service_pb2.WatchJobRequest, context: object = None
    ) -> AsyncIterator[bytes]:
        async for message in self.watched(request):
            yield streams.bytes_of(message)

    def watched(self, request: job_service_pb2.WatchJobRequest) -> AsyncIterator[Message]:
        """The messages of WatchJob, not yet serialised."""
        job_id, pace = fields.job_id(request.name), streams.pace_of(request)
        return self._watches.watch(job_id, _owner(), request.resume_token, pace)

    async def WatchJobs(  # type: ignore[override]
        self, request: job_service_pb2.WatchJobsRequest, context: object = None
    ) -> AsyncIterator[bytes]:
        asked = streams.following_of(request, identity.caller())
        async for told in self._followings.follow(asked, request.resume_token):
            yield streams.change_bytes_of(told)

    async def GetAttempt(
        self, request: job_service_pb2.GetAttemptRequest, context: object = None
    ) -> job_pb2.Attempt:
        return to_jobs.attempt_of(await self._jobs.attempt(*fields.attempt(request.name), _owner()))

    async def ListAttempts(
        self, request: job_service_pb2.ListAttemptsRequest, context: object = None
    ) -> job_service_pb2.ListAttemptsResponse:
        job_id, size = fields.job_id(request.parent, "parent"), fields.page_size(request.page_size)
        below = listing.below(job_id, request.page_token, self._page_tokens)
        found = await self._jobs.attempts(job_id, _owner(), below=below, limit=size + 1)
        token = listing.below_token(job_id, found[size - 1].number, self._page_tokens) if found[size:] else ""
        return job_service_pb2.ListAttemptsResponse(
            attempts=[to_jobs.attempt_of(attempt) for attempt in found[:size]], next_page_token=token
        )

    def _seen(self, job: Job) -> JobView:
        """*job* as its row and the bus tell, without its place in the queue."""
        newest = self._jobs.with_latest_progress(job)
        return JobView(newest, wait_reason.explain_wait(newest))


def _owner() -> Owner:
    """Whose jobs the caller may see: its tenant's; a service of ours sees all."""
    who = identity.caller()
    return None if who.suite else who.tenant
