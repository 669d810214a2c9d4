"""Errors of the jobs service are the same over gRPC and HTTP, and a refused call stores nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tests.suite.suite import Suite

from reelhaul.jobs.v1 import job_service_pb2_grpc, schedule_service_pb2_grpc
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import (
    BatchCreateJobsRequest,
    CreateJobRequest,
    ListJobsRequest,
)
from reelhaul.jobs.v1.schedule_pb2 import Schedule
from reelhaul.jobs.v1.schedule_service_pb2 import CreateScheduleRequest, ListSchedulesRequest

_URL = "https://videos.example/watch?v=1"
_VALID_JOB = Job(url=_URL)

#: HTTP method, path and body field of each RPC, as in the protos ("*": whole body; empty: query).
_ROUTES = {
    "CreateJob": ("POST", "/v1/jobs", "job"),
    "BatchCreateJobs": ("POST", "/v1/jobs:batchCreate", "*"),
    "ListJobs": ("GET", "/v1/jobs", ""),
    "CreateSchedule": ("POST", "/v1/schedules", "schedule"),
    "ListSchedules": ("GET", "/v1/schedules", ""),
}


@dataclass(frozen=True)
class RpcError:
    """The machine-readable parts of an error."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: set[str]


def _schedule(cron: str, **fields: Any) -> CreateScheduleRequest:
    return CreateScheduleRequest(schedule=Schedule(cron=cron, job_template=_VALID_JOB, **fields))


def _batch(*jobs: Job) -> BatchCreateJobsRequest:
    return BatchCreateJobsRequest(requests=[CreateJobRequest(job=job) for job in jobs])


def _at(seconds_from_now: float) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=int(time.time() + seconds_from_now))


_MANY_LABELS = {f"k{number}": "" for number in range(65)}
_YEAR = 366 * 86400

_CASES: dict[str, tuple[str, Message, str, dict[str, str], str]] = {
    "filter that does not parse": (
        "ListJobs",
        ListJobsRequest(filter="state = QUEUED AND labels = a"),
        "FILTER_INVALID",
        {"position": "26"},
        "filter",
    ),
    "filter with an open bracket": (
        "ListJobs",
        ListJobsRequest(filter="(state = QUEUED"),
        "FILTER_INVALID",
        {"position": "15"},
        "filter",
    ),
    "filter of schedules that does not parse": (
        "ListSchedules",
        ListSchedulesRequest(filter="state ="),
        "FILTER_INVALID",
        {"position": "7"},
        "filter",
    ),
    "damaged page token": ("ListJobs", ListJobsRequest(page_token="damaged"), "PAGE_TOKEN_INVALID", {}, ""),
    "cron that never fires": (
        "CreateSchedule",
        _schedule("0 0 31 2 *"),
        "FIELD_INVALID",
        {},
        "schedule.cron",
    ),
    "invalid cron": ("CreateSchedule", _schedule("at noon"), "FIELD_INVALID", {}, "schedule.cron"),
    "invalid time zone": (
        "CreateSchedule",
        _schedule("@daily", time_zone="Mars/Base"),
        "FIELD_INVALID",
        {},
        "schedule.time_zone",
    ),
    "batch of 501": ("BatchCreateJobs", _batch(*[_VALID_JOB] * 501), "FIELD_INVALID", {}, "requests"),
    "empty batch": ("BatchCreateJobs", _batch(), "FIELD_INVALID", {}, "requests"),
    "one invalid job of a batch": (
        "BatchCreateJobs",
        _batch(_VALID_JOB, Job(url=_URL, labels={"1k": ""})),
        "FIELD_INVALID",
        {},
        "requests[1].job.labels",
    ),
    "too many labels": (
        "CreateJob",
        CreateJobRequest(job=Job(url=_URL, labels=_MANY_LABELS)),
        "FIELD_INVALID",
        {},
        "job.labels",
    ),
    "label too long": (
        "CreateJob",
        CreateJobRequest(job=Job(url=_URL, labels={"k": "x" * 257})),
        "FIELD_INVALID",
        {},
        "job.labels.k",
    ),
    "time in the past": (
        "CreateJob",
        CreateJobRequest(job=Job(url=_URL, schedule_time=_at(-60))),
        "FIELD_INVALID",
        {},
        "job.schedule_time",
    ),
    "time of a batch in the past": (
        "BatchCreateJobs",
        _batch(_VALID_JOB, Job(url=_URL, schedule_time=_at(-60))),
        "FIELD_INVALID",
        {},
        "requests[1].job.schedule_time",
    ),
    "time too far ahead": (
        "CreateJob",
        CreateJobRequest(job=Job(url=_URL, schedule_time=_at(_YEAR + 3600))),
        "FIELD_INVALID",
        {},
        "job.schedule_time",
    ),
}


class _Clients:
    """Makes the same call over gRPC and over HTTP."""

    def __init__(self, suite: Suite, channel: grpc.Channel) -> None:
        self._http = suite.http
        self._stubs = [
            job_service_pb2_grpc.JobServiceStub(channel),
            schedule_service_pb2_grpc.ScheduleServiceStub(channel),
        ]

    def grpc(self, method: str, request: Message) -> Any:
        """Call *method* over gRPC; return its response or its error."""
        call = next(getattr(stub, method) for stub in self._stubs if hasattr(stub, method))
        try:
            return call(request, timeout=30)
        except grpc.RpcError as error:
            raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
            return _to_error(error.code(), status_pb2.Status.FromString(raw))

    def http(self, method: str, request: Message) -> RpcError:
        """Call *method* over HTTP; return its error."""
        verb, path, body = _ROUTES[method]
        fields = json_format.MessageToDict(request)
        params = None if body else fields
        content = fields if body == "*" else fields.get(body)
        response = self._http.request(verb, path, params=params, json=content)
        status = json_format.ParseDict(response.json(), status_pb2.Status(), ignore_unknown_fields=True)
        assert response.status_code == 400, response.text
        return _to_error(next(code for code in grpc.StatusCode if code.value[0] == status.code), status)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of jobs and schedules."""
        schedules = self.grpc("ListSchedules", ListSchedulesRequest()).schedules
        return self.grpc("ListJobs", ListJobsRequest()).total_size, len(schedules)


@pytest.fixture
def clients(suite: Suite) -> Iterator[_Clients]:
    with suite.channel("jobs") as channel:
        yield _Clients(suite, channel)


@pytest.mark.parametrize("case", _CASES)
def test_errors(clients: _Clients, case: str) -> None:
    """The error has reason, metadata and field, the same over both, and nothing is stored."""
    method, request, reason, metadata, field = _CASES[case]
    before = clients.counts()
    error, http_error = clients.grpc(method, request), clients.http(method, request)
    assert error == http_error
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.metadata.items() >= metadata.items()
    if field:
        assert field in error.fields
    assert clients.counts() == before


def test_page_token_of_another_query(clients: _Clients) -> None:
    """A page token is valid only with its own filter and order."""
    batch = clients.grpc("BatchCreateJobs", _batch(*[Job(url=_URL, schedule_time=_at(3600))] * 2))
    assert len(batch.jobs) == 2
    token = clients.grpc("ListJobs", ListJobsRequest(page_size=1)).next_page_token
    for other in (
        ListJobsRequest(page_size=1, page_token=token, filter="state = QUEUED"),
        ListJobsRequest(page_size=1, page_token=token, order_by="create_time"),
    ):
        error = clients.grpc("ListJobs", other)
        assert error == clients.http("ListJobs", other)
        assert error.reason == "PAGE_TOKEN_INVALID"


def _to_error(code: grpc.StatusCode, status: status_pb2.Status) -> RpcError:
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for message in (info, bad_request):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    fields = {violation.field for violation in bad_request.field_violations}
    return RpcError(code, info.reason, dict(info.metadata), fields)
