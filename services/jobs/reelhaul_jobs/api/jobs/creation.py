"""Creation of jobs from CreateJob and BatchCreateJobs requests, for JobService and DownloadService.

DownloadService converts its flat requests into these and gives the names that its callers know
the fields by, so that both services validate, number and deduplicate jobs in one place.
"""

from __future__ import annotations

from datetime import timedelta

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.caller_limits import CallerLimits
from reelhaul_jobs.api.jobs.batches import MAX_BATCH, BatchItems
from reelhaul_jobs.api.jobs.template_cache import JobTemplateCache, NewJobContext
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.job_limits import JobLimits
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import Kind
from reelhaul_jobs.ports.services import Clock, Storage
from reelhaul_jobs.service.batches import Batches
from reelhaul_jobs.service.jobs import Jobs
from reelhaul_runtime import identity, logs
from reelhaul_runtime.addresses import Rules
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, Violation, to_status
from reelhaul_runtime.validation.violations import FieldNames, same_name

# A client accepts responses of 4 MiB by default, and the response holds more than the request.
_MAX_REQUEST_BYTES = 3 * 1024 * 1024


class JobCreation:
    """Validates requests and creates their jobs."""

    def __init__(
        self,
        jobs: Jobs,
        batches: Batches,
        storage: Storage,
        now: Clock,
        retention: timedelta,
        rules: Rules | None = None,
        limits: CallerLimits = JobLimits,
    ) -> None:
        """*retention*: how long a job is kept after its end unless its caller says.

        *rules*: which addresses a URL may have, as in the guard; None: only the guard checks them.
        """
        self._limits = limits
        self._jobs = jobs
        self._batches = batches
        self._storage = storage
        self._now = now
        self._templates = JobTemplateCache(retention, rules)

    async def create(
        self, request: job_service_pb2.CreateJobRequest, names: FieldNames = same_name
    ) -> JobView:
        """Create the job, or with validate_only return what it would be; *names* are for its errors."""
        now, tenant = self._now(), identity.caller().tenant
        key = fields.idempotency_key(request, "CreateJob", tenant, now)
        context = NewJobContext(
            tenant, now, logs.traceparent.get(), fields.caller_key_id(), limits=self._limits()
        )
        try:
            job = self._templates.job_of(request.job, request.job_id or ids.new_id(now), context, names)
            await check_destination(self._storage, job, names("job.deliver_to"))
        except ReelhaulError:
            # A repeated call returns the job of the first one, though its schedule_time has passed since.
            if (created := await self._jobs.find_created(key)) is None:
                raise
            return created
        if request.validate_only:
            return await self._jobs.preflight(job)
        return await self._jobs.create(job, key)

    async def create_batch(self, items: BatchItems) -> Batch:
        """Create the jobs of a batch, of one batch_id; return what became of each request.

        All or none, unless ``return_partial_success``: then the requests that fail are among
        ``failed``, and BATCH_FAILED says that all did.
        """
        request = items.request
        now, tenant = self._now(), identity.caller().tenant
        key = fields.idempotency_key(request, "BatchCreateJobs", tenant, now)
        context = NewJobContext(
            tenant,
            now,
            logs.traceparent.get(),
            fields.caller_key_id(),
            batch_id=ids.new_id(now),
            limits=self._limits(),
        )
        try:
            batch = await self._with_known_destinations(self._batch_of(items, context), items)
        except ReelhaulError:
            # As in create.
            if (created := await self._batches.find_created(key)) is None:
                raise
            return created
        try:
            return await self._batches.create(batch, key, partial=request.return_partial_success)
        except ReelhaulError as error:
            if error.reason != ErrorReason.RESOURCE_EXISTS:
                raise
            raise _taken_id(error, batch, items) from error

    def _batch_of(self, items: BatchItems, context: NewJobContext) -> Batch:
        requests = items.request.requests
        count = len(requests) + len(items.failed)
        if not 1 <= count <= MAX_BATCH:
            raise FieldInvalid(
                items.requests_field, f"must have between 1 and {MAX_BATCH} elements, not {count}"
            )
        if items.request.ByteSize() > _MAX_REQUEST_BYTES:
            text = f"must have at most {_MAX_REQUEST_BYTES} bytes in total: create smaller batches"
            raise FieldInvalid(items.requests_field, text)
        jobs, failed, used_ids = dict[int, Job](), dict(items.failed), set[str]()
        # New ids sort as the requests do, and so do the lists and the queue.
        new_ids = ids.new_ids(context.now, len(requests))
        for index, request, new_id in zip(items.indexes, requests, new_ids, strict=True):
            job_id, names = request.job_id or new_id, items.error_names(index)
            try:
                jobs[index] = self._batch_job_of(request, job_id, used_ids, context, names)
            except ReelhaulError as error:
                if not items.request.return_partial_success:
                    raise
                failed[index] = to_status(error)
        for index, job in jobs.items():
            if job.kind is not Kind.SINGLE:
                path = items.path(index, items.names("job.kind"))
                raise FieldInvalid(path, "a batch holds no expansions: create each alone")
        return Batch(jobs, failed)

    async def _with_known_destinations(self, batch: Batch, items: BatchItems) -> Batch:
        """Return *batch*; the jobs whose destination does not exist are moved to ``failed``, or raise."""
        errors = dict[str, ReelhaulError]()
        for deliver_to in {job.deliver_to for job in batch.jobs.values()} - {""}:
            index, job = next(each for each in batch.jobs.items() if each[1].deliver_to == deliver_to)
            try:
                await check_destination(self._storage, job, items.error_names(index)("job.deliver_to"))
            except FieldInvalid as error:
                if not items.request.return_partial_success:
                    raise
                errors[deliver_to] = error
        if not errors:
            return batch
        failed = {
            i: to_status(errors[job.deliver_to]) for i, job in batch.jobs.items() if job.deliver_to in errors
        }
        jobs = {index: job for index, job in batch.jobs.items() if index not in failed}
        return Batch(jobs, {**batch.failed, **failed})

    def _batch_job_of(
        self,
        request: job_service_pb2.CreateJobRequest,
        job_id: str,
        used_ids: set[str],
        context: NewJobContext,
        names: FieldNames,
    ) -> Job:
        if request.request_id:
            raise FieldInvalid(names("request_id"), "only the batch has one")
        if request.validate_only:
            raise FieldInvalid(names("validate_only"), "must be unset within a batch")
        if job_id in used_ids:
            raise FieldInvalid(names("job_id"), "another request of this batch has it")
        job = self._templates.job_of(request.job, job_id, context, names)
        used_ids.add(job.id)
        return job


async def check_destination(storage: Storage, job: Job, field: str) -> None:
    """Raise FIELD_INVALID of *field* unless *job* has no destination or its tenant has that one.

    Raises SERVICE_UNAVAILABLE if storage does not respond.
    """
    if job.deliver_to and not await storage.has_destination(job.tenant, job.deliver_to):
        raise FieldInvalid(field, f"there is no destination {job.deliver_to}")


def _taken_id(error: ReelhaulError, batch: Batch, items: BatchItems) -> ReelhaulError:
    """Return RESOURCE_EXISTS with the field that holds the taken id."""
    index = next(index for index, job in batch.jobs.items() if job.name == error.metadata["resource"])
    path = items.path(index, items.names("job_id"))
    return ReelhaulError(
        error.reason,
        f"{path}: {error.text}",
        metadata=error.metadata,
        violations=[Violation(path, "is taken")],
    )
