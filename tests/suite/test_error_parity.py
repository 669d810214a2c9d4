"""What jobs refuses, it refuses alike over gRPC and HTTP: with reason, field and place, storing nothing."""

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
_GOOD = Job(url=_URL)

#: Verb, path and body field of the methods below ("*": all of it; none: the query), as the protos say.
_ROUTES = {
    "CreateJob": ("POST", "/v1/jobs", "job"),
    "BatchCreateJobs": ("POST", "/v1/jobs:batchCreate", "*"),
    "ListJobs": ("GET", "/v1/jobs", ""),
    "CreateSchedule": ("POST", "/v1/schedules", "schedule"),
    "ListSchedules": ("GET", "/v1/schedules", ""),
}


@dataclass(frozen=True)
class Refusal:
    """What a program reads of a failure."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: set[str]


def _schedule(cron: str, **fields: Any) -> CreateScheduleRequest:
    return CreateScheduleRequest(schedule=Schedule(cron=cron, job_template=_GOOD, **fields))


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
    "cron that is none": ("CreateSchedule", _schedule("at noon"), "FIELD_INVALID", {}, "schedule.cron"),
    "zone that is none": (
        "CreateSchedule",
        _schedule("@daily", time_zone="Mars/Base"),
        "FIELD_INVALID",
        {},
        "schedule.time_zone",
    ),
    "batch of 501": ("BatchCreateJobs", _batch(*[_GOOD] * 501), "FIELD_INVALID", {}, "requests"),
    "batch of none": ("BatchCreateJobs", _batch(), "FIELD_INVALID", {}, "requests"),
    "one bad job of a batch": (
        "BatchCreateJobs",
        _batch(_GOOD, Job(url=_URL, labels={"1k": ""})),
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
        _batch(_GOOD, Job(url=_URL, schedule_time=_at(-60))),
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


class _Ways:
    """The same call over gRPC and over HTTP."""

    def __init__(self, suite: Suite, channel: grpc.Channel) -> None:
        self._http = suite.http
        self._stubs = [
            job_service_pb2_grpc.JobServiceStub(channel),
            schedule_service_pb2_grpc.ScheduleServiceStub(channel),
        ]

    def grpc(self, method: str, request: Message) -> Any:
        """Its answer, or how it was refused."""
        call = next(getattr(stub, method) for stub in self._stubs if hasattr(stub, method))
        try:
            return call(request, timeout=30)
        except grpc.RpcError as error:
            raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
            return _refusal(error.code(), status_pb2.Status.FromString(raw))

    def http(self, method: str, request: Message) -> Refusal:
        """How it was refused."""
        verb, path, body = _ROUTES[method]
        told = json_format.MessageToDict(request)
        sent: dict[str, Any] = {"params": told} if not body else {"json": told if body == "*" else told[body]}
        answer = self._http.request(verb, path, **sent)
        status = json_format.ParseDict(answer.json(), status_pb2.Status(), ignore_unknown_fields=True)
        assert answer.status_code == 400, answer.text
        return _refusal(next(code for code in grpc.StatusCode if code.value[0] == status.code), status)

    def counts(self) -> tuple[int, int]:
        """How many jobs and schedules there are."""
        schedules = self.grpc("ListSchedules", ListSchedulesRequest()).schedules
        return self.grpc("ListJobs", ListJobsRequest()).total_size, len(schedules)


@pytest.fixture
def ways(suite: Suite) -> Iterator[_Ways]:
    with suite.channel("jobs") as channel:
        yield _Ways(suite, channel)


@pytest.mark.parametrize("case", _CASES)
def test_refusals(ways: _Ways, case: str) -> None:
    """Reason, field and place are told, the same either way, and nothing is stored."""
    method, request, reason, metadata, field = _CASES[case]
    before = ways.counts()
    direct, over_http = ways.grpc(method, request), ways.http(method, request)
    assert direct == over_http
    assert (direct.code, direct.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert direct.metadata.items() >= metadata.items()
    if field:
        assert field in direct.fields
    assert ways.counts() == before


def test_page_token_of_another_query(ways: _Ways) -> None:
    """A token goes with its own filter and order only."""
    made = ways.grpc("BatchCreateJobs", _batch(*[Job(url=_URL, schedule_time=_at(3600))] * 2))
    assert len(made.jobs) == 2
    token = ways.grpc("ListJobs", ListJobsRequest(page_size=1)).next_page_token
    for other in (
        ListJobsRequest(page_size=1, page_token=token, filter="state = QUEUED"),
        ListJobsRequest(page_size=1, page_token=token, order_by="create_time"),
    ):
        direct = ways.grpc("ListJobs", other)
        assert direct == ways.http("ListJobs", other)
        assert direct.reason == "PAGE_TOKEN_INVALID"


def _refusal(code: grpc.StatusCode, status: status_pb2.Status) -> Refusal:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for known in (info, bad):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    fields = {violation.field for violation in bad.field_violations}
    return Refusal(code, info.reason, dict(info.metadata), fields)
