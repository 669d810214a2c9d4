"""Conversion of the messages that create, name or return many jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.rpc import status_pb2

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.lists import Batch
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.validation.violations import FieldNames, same_name

#: Jobs that one call may create.
MAX_BATCH = 500

_MAX_NAMES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItems:
    """The requests of a batch, and what the caller's own request calls their fields."""

    request: job_service_pb2.BatchCreateJobsRequest
    #: The index of each of ``request.requests`` in the caller's request.
    indexes: Sequence[int]
    #: By index, the requests that failed before they were converted.
    failed: Mapping[int, status_pb2.Status] = field(default_factory=dict)
    #: Names of the fields of one job's request.
    names: FieldNames = same_name
    #: Returns the path in the whole request of the field so named, by the request's index.
    path: Callable[[int, str], str]
    #: The field that holds the requests.
    requests_field: str

    @classmethod
    def from_request(cls, request: job_service_pb2.BatchCreateJobsRequest) -> BatchItems:
        """Return the items of a caller who sent *request* itself."""
        return cls(
            request=request,
            indexes=range(len(request.requests)),
            path=lambda index, name: f"requests[{index}].{name}",
            requests_field="requests",
        )

    def error_names(self, index: int) -> FieldNames:
        """Return the names for the errors of one request: in its own status, or in the only one."""
        if self.request.return_partial_success:
            return self.names
        return lambda name: self.path(index, self.names(name))


def create_response(batch: Batch) -> job_service_pb2.BatchCreateJobsResponse:
    """Return what became of each request of a batch."""
    jobs = [batch.jobs[index] for index in sorted(batch.jobs)]
    return job_service_pb2.BatchCreateJobsResponse(
        jobs=messages.jobs_to_protos(jobs),
        failed_requests=batch.failed,
        batch_id=jobs[0].batch_id,
    )


def parse_names(names: Sequence[str]) -> list[str]:
    """Return the ids of 1..1000 job names."""
    if not 1 <= len(names) <= _MAX_NAMES:
        raise FieldInvalid("names", f"must have between 1 and {_MAX_NAMES} elements, not {len(names)}")
    return [fields.parse_job_id(name, f"names[{index}]") for index, name in enumerate(names)]


def parse_retry(request: job_service_pb2.BatchRetryJobsRequest) -> tuple[Sequence[str], Node | None]:
    """Return the ids of the jobs to retry, or the filter. FILTER_INVALID, FIELD_INVALID."""
    if bool(request.names) == bool(request.filter.strip()):
        raise FieldInvalid("filter", "must be set if names is unset, and only then")
    if request.names:
        return parse_names(request.names), None
    return (), parse(request.filter, JOB_FIELDS)


def basic_protos(jobs: Iterable[Job]) -> Iterable[job_pb2.Job]:
    """Return *jobs* without the heavy fields of their media."""
    return messages.jobs_to_protos(jobs, job_service_pb2.JOB_VIEW_BASIC)


def in_order(job_ids: Sequence[str], jobs: Iterable[Job]) -> list[Job]:
    """Return *jobs* in the order of *job_ids*, repeated where an id is."""
    by_id = {job.id: job for job in jobs}
    return [by_id[job_id] for job_id in job_ids if job_id in by_id]


def check_response_size(jobs: list[job_pb2.Job]) -> list[job_pb2.Job]:
    """Return *jobs* if they fit into one response. FIELD_INVALID."""
    if sum(job.ByteSize() for job in jobs) > fields.MAX_RESPONSE_BYTES:
        raise FieldInvalid("names", "these jobs are too large for one response: ask for fewer")
    return jobs
