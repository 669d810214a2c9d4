"""Batches: many requests in one, and what is wrong with which of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.error_paths import at
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.api.jobs.template_cache import JobTemplateCache, NewJobContext
from reelhaul_jobs.filters.fields import JOB_FIELDS
from reelhaul_jobs.filters.parser import parse
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.service.batches import Wanted
from reelhaul_runtime import logs
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, to_status

MOST_CREATED = 500
MOST_NAMED = 1000

# A client takes answers of 4 MiB by default, and an answer holds what was asked and more.
_HEAVIEST = 3 * 1024 * 1024


def batch_of(
    request: job_service_pb2.BatchCreateJobsRequest, tenant: str, now: datetime, forms: JobTemplateCache
) -> Batch:
    """The jobs that *request* asks for, of one batch_id.

    The first bad request is raised, its index in the field's name; with
    return_partial_success all bad ones are among the failed.
    """
    _check_bounds(request)
    birth, taken = NewJobContext(tenant, now, logs.traceparent.get(), ids.new_id(now)), set[str]()
    jobs, failed = {}, {}
    # Ids that are made here sort as the requests do: so do the lists and the queue.
    fresh = ids.new_ids(now, len(request.requests))
    for place, (one, job_id) in enumerate(zip(request.requests, fresh, strict=True)):
        try:
            jobs[place] = _job_of(one, one.job_id or job_id, taken, forms, birth)
        except ReelhaulError as error:
            if not request.return_partial_success:
                raise at(f"requests[{place}]", error) from error
            failed[place] = to_status(error)
    return Batch(jobs, failed)


def created(batch: Batch) -> job_service_pb2.BatchCreateJobsResponse:
    """What became of a batch."""
    jobs = [batch.jobs[place] for place in sorted(batch.jobs)]
    return job_service_pb2.BatchCreateJobsResponse(
        jobs=to_jobs.protos_of(jobs),
        failed_requests=batch.failed,
        batch_id=jobs[0].batch_id,
    )


def named(names_asked: Sequence[str]) -> list[str]:
    """The bare ids of 1..1000 names."""
    if not 1 <= len(names_asked) <= MOST_NAMED:
        raise FieldInvalid("names", f"1..{MOST_NAMED} of them, not {len(names_asked)}")
    return [fields.job_id(name, f"names[{place}]") for place, name in enumerate(names_asked)]


def retry_of(request: job_service_pb2.BatchRetryJobsRequest) -> Wanted:
    """What is to be retried. FILTER_INVALID, FIELD_INVALID."""
    if bool(request.names) == bool(request.filter.strip()):
        raise FieldInvalid("filter", "one of names and filter must be set, and only one")
    if request.names:
        return Wanted(ids=named(request.names))
    return Wanted(where=parse(request.filter, JOB_FIELDS))


def basic(jobs: Iterable[Job]) -> list[job_pb2.Job]:
    """*jobs* in the BASIC view."""
    return list(to_jobs.protos_of(jobs, job_service_pb2.JOB_VIEW_BASIC))


def in_order(asked: Sequence[str], jobs: Iterable[Job]) -> list[Job]:
    """*jobs* as they were *asked* for by id, those asked twice told twice."""
    by_id: Mapping[str, Job] = {job.id: job for job in jobs}
    return [by_id[job_id] for job_id in asked if job_id in by_id]


def _check_bounds(request: job_service_pb2.BatchCreateJobsRequest) -> None:
    if not 1 <= len(request.requests) <= MOST_CREATED:
        raise FieldInvalid("requests", f"1..{MOST_CREATED} of them, not {len(request.requests)}")
    if request.ByteSize() > _HEAVIEST:
        raise FieldInvalid("requests", f"at most {_HEAVIEST} bytes in all: ask in smaller batches")


def _job_of(
    one: job_service_pb2.CreateJobRequest,
    job_id: str,
    taken: set[str],
    forms: JobTemplateCache,
    birth: NewJobContext,
) -> Job:
    """The job that *one* of many requests asks for; its id joins the *taken*."""
    if one.request_id:
        raise FieldInvalid("request_id", "only the batch has one")
    if one.validate_only:
        raise FieldInvalid("validate_only", "it must be unset within a batch")
    if job_id in taken:
        raise FieldInvalid("job_id", "another request of this batch has it")
    job = forms.job_of(one.job, job_id, birth)
    taken.add(job.id)
    return job
