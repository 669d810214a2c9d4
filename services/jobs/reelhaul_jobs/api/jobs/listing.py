"""ListJobs, ListAttempts and SummarizeJobs: their filters, orders, pages and counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from google.protobuf import timestamp_pb2

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.jobs.v1.job_service_pb2 import SummarizeJobsRequest, SummarizeJobsResponse
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages
from reelhaul_jobs.api.kept_messages import KeptMessages
from reelhaul_jobs.filters import ADMIN_FIELDS, JOB_FIELDS
from reelhaul_jobs.model.job import Attempt
from reelhaul_jobs.model.lists import CountQuery, JobCounts, Order, Summary
from reelhaul_jobs.model.results import JobView, Owner
from reelhaul_jobs.ports.jobs import KeptJob, Page, Query
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError
from reelhaul_runtime.filters import ast
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_MAX_SKIP = 10_000
_DAY = timedelta(days=1)
_MIN_STEP = timedelta(minutes=1)
_MAX_BUCKETS = 1000


def query_from_request(request: job_service_pb2.ListJobsRequest, caller: Caller, tokens: PageTokens) -> Query:
    """Return the requested page. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID."""
    owner, where = parse_filter(request.filter, caller)
    order, descending = _parse_order(request.order_by, owner)
    after, total = read_token(tokens, _arguments(request, owner), request.page_token)
    return Query(
        tenant=owner,
        limit=limit_page_size(request.page_size),
        order=order,
        descending=descending,
        after=after,
        skip=fields.check_range(request.skip, "skip", 0, _MAX_SKIP),
        where=where,
        total=total,
    )


def serialize_list(
    request: job_service_pb2.ListJobsRequest,
    query: Query,
    page: Page[JobView | KeptJob],
    tokens: PageTokens,
    kept: KeptMessages,
) -> bytes:
    """Return *page* as a serialized ListJobsResponse, with fewer jobs where they would be too large."""
    jobs, sent = kept.serialize_list(page.jobs, fields.MAX_RESPONSE_BYTES)
    response = job_service_pb2.ListJobsResponse(
        next_page_token=next_token(tokens, _arguments(request, query.tenant), query, page, sent),
        total_size=page.total,
    )
    # Serialized messages, concatenated, are one message with the fields of both.
    return jobs + response.SerializeToString()


def read_token(
    tokens: PageTokens, arguments: str, token: str
) -> tuple[tuple[datetime, str] | None, int | None]:
    """Return where the page of *token* begins, and the total counted for the first page."""
    if (position := tokens.read(arguments, token)) is None:
        return None, None
    time, job_id, total = position
    return (time, job_id), total


def next_token(
    tokens: PageTokens, arguments: str, query: Query, page: Page[JobView | KeptJob], sent: int
) -> str:
    """Return the token of the page after the first *sent* jobs of *page*; empty after the last one."""
    if not page.has_more and sent == len(page.jobs):
        return ""
    last = page.jobs[sent - 1]
    sort_key = last.sort_key if isinstance(last, KeptJob) else query.order.sort_key(last.job)
    return tokens.create(arguments, *sort_key, page.total)


def parse_filter(text: str, caller: Caller) -> tuple[Owner, ast.Node | None]:
    """Return the owner of the jobs that a filter selects from, and its conditions. FILTER_INVALID.

    The caller's own, except for callers who may see every tenant's and name ``tenant``, and for
    the suite's own services.
    """
    where = parse(text, ADMIN_FIELDS if caller.sees_all_tenants else JOB_FIELDS)
    if tenant := ast.required_value(where, "tenant"):
        return tenant, where
    everyone = caller.suite or (where is not None and ast.mentions_field(where, "tenant"))
    return None if everyone else caller.tenant, where


def attempts_below(job_id: str, token: str, tokens: PageTokens) -> int | None:
    """Return the number that the attempts of a page are below; None for the first page."""
    position = tokens.read(_attempts_of(job_id), token)
    return position[0] if position else None


def attempts_response(
    job_id: str, attempts: Sequence[Attempt], page_size: int, tokens: PageTokens
) -> job_service_pb2.ListAttemptsResponse:
    """Return the first *page_size* of *attempts*, and a token where there are more."""
    page = attempts[:page_size]
    return job_service_pb2.ListAttemptsResponse(
        attempts=[messages.attempt_to_proto(attempt) for attempt in page],
        next_page_token=tokens.create(_attempts_of(job_id), page[-1].number) if attempts[page_size:] else "",
    )


def range_from_request(request: SummarizeJobsRequest, caller: Caller, now: datetime) -> CountQuery:
    """Return which jobs to count. FILTER_INVALID, FIELD_INVALID."""
    owner, where = parse_filter(request.filter, caller)
    end = parse_time(request.end_time, "end_time") if request.HasField("end_time") else now
    start = parse_time(request.start_time, "start_time") if request.HasField("start_time") else now - _DAY
    if start >= end:
        raise FieldInvalid("start_time", "must be before end_time")
    step = _parse_step(request, end - start) if request.HasField("step") else None
    return CountQuery(tenant=owner, start=start, end=end, bucket_width=step, where=where)


def summary_response(query: CountQuery, summary: Summary) -> SummarizeJobsResponse:
    """Return what was counted; buckets in which no job was created are there and empty."""
    response = SummarizeJobsResponse(total=_bucket(query.start, summary.total))
    if query.bucket_width is not None:
        for number in range(-((query.start - query.end) // query.bucket_width)):
            counts = summary.buckets.get(number, JobCounts())
            response.series.append(_bucket(query.start + number * query.bucket_width, counts))
    return response


def parse_time(timestamp: timestamp_pb2.Timestamp, field: str) -> datetime:
    """Return *timestamp* as an aware datetime in UTC. FIELD_INVALID."""
    try:
        return fields.to_datetime(timestamp)
    except (ValueError, OverflowError):
        raise FieldInvalid(field, "must be a valid time") from None


def _parse_order(text: str, owner: Owner) -> tuple[Order, bool]:
    """Return the order that *text* asks for, and whether it is descending."""
    words = text.split() or [Order.CREATED.value, "desc"]
    orders = {order.value: order for order in Order}
    if words[0] not in orders or words[1:] not in ([], ["asc"], ["desc"]):
        raise _order_invalid(text, f"jobs are ordered by one of {', '.join(orders)}, each also with desc")
    order = orders[words[0]]
    if owner is None and order is not Order.CREATED:
        raise _order_invalid(text, "jobs of several tenants are ordered by create_time only")
    return order, words[1:] == ["desc"]


def _order_invalid(text: str, description: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.ORDER_BY_INVALID, description, metadata={"field": text[:64]})


def _arguments(request: job_service_pb2.ListJobsRequest, owner: Owner) -> str:
    """Return what must stay the same from page to page."""
    return repr((owner, request.filter, request.order_by.split()))


def _attempts_of(job_id: str) -> str:
    return f"attempts of {job_id}"


def _bucket(start: datetime, counts: JobCounts) -> SummarizeJobsResponse.Bucket:
    return SummarizeJobsResponse.Bucket(
        start_time=fields.to_timestamp(start),
        state_counts={state.name: jobs for state, jobs in counts.states.items()},
        error_counts=counts.errors,
        downloaded_bytes=counts.downloaded_bytes,
        latency_p50=None if counts.latency_p50 is None else fields.to_duration(counts.latency_p50),
        latency_p95=None if counts.latency_p95 is None else fields.to_duration(counts.latency_p95),
    )


def _parse_step(request: SummarizeJobsRequest, whole: timedelta) -> timedelta:
    try:
        step: timedelta = request.step.ToTimedelta()
    except (ValueError, OverflowError):
        raise FieldInvalid("step", "must be a valid duration") from None
    if step < _MIN_STEP:
        raise FieldInvalid("step", "must be at least one minute")
    if whole > step * _MAX_BUCKETS:
        text = f"must not make more than {_MAX_BUCKETS} buckets: use a longer step or a shorter range"
        raise FieldInvalid("step", text)
    return step
