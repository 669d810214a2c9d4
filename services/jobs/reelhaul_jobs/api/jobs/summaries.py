"""SummarizeJobs: the stretch of time asked, and what was counted in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from reelhaul.jobs.v1.job_service_pb2 import SummarizeJobsRequest, SummarizeJobsResponse
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import listing
from reelhaul_jobs.model.lists import CountQuery, JobCounts, Summary
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.identity import Caller

_DAY = timedelta(days=1)
_LEAST_STEP = timedelta(minutes=1)
_MOST_BUCKETS = 1000


def range_of(request: SummarizeJobsRequest, who: Caller, now: datetime) -> CountQuery:
    """What is to be counted. FILTER_INVALID, FIELD_INVALID."""
    owner, where = listing.reach_of(request.filter, who)
    end = _time(request, "end_time") if request.HasField("end_time") else now
    start = _time(request, "start_time") if request.HasField("start_time") else now - _DAY
    if start >= end:
        raise FieldInvalid("start_time", "it must be before end_time")
    step = _step(request, end - start) if request.HasField("step") else None
    return CountQuery(tenant=owner, start=start, end=end, bucket_width=step, where=where)


def answer_of(asked: CountQuery, summary: Summary) -> SummarizeJobsResponse:
    """What was counted; a bucket in which nothing was created is there and empty."""
    answer = SummarizeJobsResponse(total=_bucket(asked.start, summary.total))
    if asked.bucket_width is not None:
        for number in range(-((asked.start - asked.end) // asked.bucket_width)):
            tally = summary.buckets.get(number, JobCounts())
            answer.series.append(_bucket(asked.start + number * asked.bucket_width, tally))
    return answer


def _bucket(start: datetime, tally: JobCounts) -> SummarizeJobsResponse.Bucket:
    return SummarizeJobsResponse.Bucket(
        start_time=fields.stamp(start),
        state_counts={state.name: jobs for state, jobs in tally.states.items()},
        error_counts=tally.errors,
        downloaded_bytes=tally.downloaded_bytes,
        latency_p50=None if tally.latency_p50 is None else fields.duration(tally.latency_p50),
        latency_p95=None if tally.latency_p95 is None else fields.duration(tally.latency_p95),
    )


def _step(request: SummarizeJobsRequest, whole: timedelta) -> timedelta:
    try:
        step: timedelta = request.step.ToTimedelta()
    except (ValueError, OverflowError):
        raise FieldInvalid("step", "it is no valid duration") from None
    if step < _LEAST_STEP:
        raise FieldInvalid("step", "at least one minute")
    if whole > step * _MOST_BUCKETS:
        raise FieldInvalid("step", f"at most {_MOST_BUCKETS} buckets: ask for wider ones or less time")
    return step


def _time(request: SummarizeJobsRequest, field: str) -> datetime:
    stamp: timestamp_pb2.Timestamp = getattr(request, field)
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise FieldInvalid(field, "it is no valid time") from None
