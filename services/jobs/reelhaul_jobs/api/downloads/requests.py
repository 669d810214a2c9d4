"""Conversion of flat requests into those of JobService, into queries, and into those of the fetcher."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.downloads import choices, formats
from reelhaul_jobs.api.jobs.listing import parse_time, read_token
from reelhaul_jobs.api.jobs.streams import clamped_pace
from reelhaul_jobs.model.lists import CountQuery
from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.watch import Pace
from reelhaul_jobs.ports.jobs import Query
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.filters.ast import And, Node, Operator, Or, Pattern, Term
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldNames, FieldViolations, same_name

_MAX_SKIP = 10_000
_MAX_TEXT = 200
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: States of jobs that wait, and of jobs that a worker holds.
QUEUED_STATES = (State.QUEUED, State.RETRYING)
RUNNING_STATES = (State.RUNNING, State.CANCELLING)


def create_request(
    request: flat.CreateDownloadRequest, names: FieldNames = same_name
) -> job_service_pb2.CreateJobRequest:
    """Return the CreateJobRequest that *request* describes.

    FIELD_INVALID reports all unknown words and conflicts at once, with the fields as *names* calls
    them. What JobService checks by value, JobCreation does.
    """
    violations = FieldViolations(names)
    job = _job(request, violations)
    if violations:
        # JobCreation checks the URL of a request without violations; here one error reports it, first of all.
        violations = FieldViolations(names)
        urls.check_url(request.url, "url", violations)
        _job(request, violations)
        violations.raise_if_any()
    return job_service_pb2.CreateJobRequest(
        job=job, request_id=request.request_id, validate_only=request.validate_only
    )


def list_query(request: flat.ListDownloadsRequest, owner: Owner, tokens: PageTokens) -> Query:
    """Return the requested page. FIELD_INVALID, PAGE_TOKEN_INVALID."""
    violations = FieldViolations()
    descending = choices.parse_choice(request.order, choices.ORDERS, "order", violations)
    if request.page_size < 0:
        violations.add("page_size", "must not be negative")
    page_size = min(max(request.page_size, 0) or 50, 1000)
    terms = _terms(request, violations)
    if request.page_token and request.page:
        violations.add("page", "must be unset where page_token is set")
    elif not 0 <= request.page <= _MAX_SKIP or request.page * page_size > _MAX_SKIP:
        violations.add("page", f"page * page_size must be 0..{_MAX_SKIP}: use page_token beyond")
    violations.raise_if_any()
    after, total = read_token(tokens, list_arguments(request, owner), request.page_token)
    return Query(
        tenant=owner,
        limit=page_size,
        descending=descending is not False,
        after=after,
        skip=max(request.page - 1, 0) * page_size,
        where=And(tuple(terms)) if terms else None,
        total=total,
    )


def list_arguments(request: flat.ListDownloadsRequest, owner: Owner) -> str:
    """Return what must stay the same from page to page."""
    arguments = flat.ListDownloadsRequest()
    arguments.CopyFrom(request)
    for field in ("page", "page_size", "page_token"):
        arguments.ClearField(field)
    return repr((owner, arguments.SerializeToString(deterministic=True)))


def probe_request(request: flat.GetInfoRequest) -> fetcher_service_pb2.ProbeMediaRequest:
    """Return the ProbeMediaRequest that *request* describes. FIELD_INVALID, URL_INVALID, URL_FORBIDDEN."""
    violations = FieldViolations()
    urls.check_url(request.url, "url", violations)
    violations.check_range("max_entries", request.max_entries, 1, 1000)
    media_fields = flat.CreateDownloadRequest(
        quality=request.quality,
        format=request.format,
        audio_only=request.audio_only,
        cookies=request.cookies,
    )
    spec = formats.format_spec(media_fields, violations)
    violations.raise_if_any()
    return fetcher_service_pb2.ProbeMediaRequest(
        url=request.url, format=spec, max_entries=request.max_entries
    )


def past_range(request: flat.GetStatsRequest, owner: Owner, now: datetime) -> CountQuery:
    """Return which jobs to count over time. FIELD_INVALID."""
    end = parse_time(request.created_before, "created_before") if request.HasField("created_before") else now
    start = now - _DAY
    if request.HasField("created_after"):
        start = parse_time(request.created_after, "created_after")
    if start >= end:
        raise FieldInvalid("created_after", "must be before created_before")
    return CountQuery(tenant=owner, start=start, end=end)


def active_range(owner: Owner, now: datetime) -> CountQuery:
    """Return the range of the jobs that wait and run now, whenever they were created."""
    active = tuple(_state_is(state) for state in (*QUEUED_STATES, *RUNNING_STATES))
    return CountQuery(tenant=owner, start=_EPOCH, end=now, where=Or(active))


def watch_pace(request: flat.WatchProgressRequest) -> Pace:
    """Return how often the watcher wants messages. FIELD_INVALID."""
    violations = FieldViolations()
    violations.check_range("min_interval_seconds", request.min_interval_seconds, 0.05, 60)
    violations.check_range("heartbeat_seconds", request.heartbeat_seconds, 1, 60)
    violations.raise_if_any()
    return clamped_pace(request.min_interval_seconds or None, request.heartbeat_seconds or None)


def _job(request: flat.CreateDownloadRequest, violations: FieldViolations) -> job_pb2.Job:
    job = job_pb2.Job(url=request.url, format=formats.format_spec(request, violations), labels=request.labels)
    job.deliver_to = request.deliver_to
    priority = choices.parse_choice(request.priority, choices.PRIORITIES, "priority", violations)
    job.priority = priority or job.priority
    if request.HasField("schedule_time"):
        job.schedule_time.CopyFrom(request.schedule_time)
    if request.ttl_seconds:
        formats.set_duration(job.ttl, request.ttl_seconds, "ttl_seconds", violations)
    if request.playlist:
        job.kind = job_pb2.Job.EXPANSION
        job.expansion.max_entries = request.max_entries
    elif request.max_entries:
        violations.add("max_entries", "must be unset where playlist is unset")
    return job


def _terms(request: flat.ListDownloadsRequest, violations: FieldViolations) -> Sequence[Node]:
    """Return the conditions that *request* narrows the list by."""
    terms = list[Node]()
    if request.status:
        numbers = dict.fromkeys(request.status)
        terms.append(Or(tuple(_state_is(_state(number, violations)) for number in numbers)))
    if request.HasField("created_after"):
        time = _time(request.created_after, "created_after", violations)
        terms.append(Term("create_time", Operator.GREATER_OR_EQUAL, time))
    if request.HasField("created_before"):
        time = _time(request.created_before, "created_before", violations)
        terms.append(Term("create_time", Operator.LESS, time))
    if len(request.url_contains) > _MAX_TEXT:
        length = len(request.url_contains)
        violations.add("url_contains", f"must have at most {_MAX_TEXT} characters, not {length}")
    elif "\0" in request.url_contains:
        violations.add("url_contains", "must not contain NUL")
    elif request.url_contains:
        terms.append(
            Term(
                "url",
                Operator.EQUAL,
                Pattern(request.url_contains, leading_wildcard=True, trailing_wildcard=True),
            )
        )
    if "\0" in request.batch_id:
        violations.add("batch_id", "must not contain NUL")
    elif request.batch_id:
        terms.append(Term("batch_id", Operator.EQUAL, Pattern(request.batch_id[:_MAX_TEXT])))
    return terms


def _state_is(state: State) -> Term:
    return Term("state", Operator.EQUAL, int(state))


def _state(number: int, violations: FieldViolations) -> State:
    try:
        return State(number)
    except ValueError:
        violations.add("status", f"{number} is not a status")
        return State.QUEUED


def _time(timestamp: timestamp_pb2.Timestamp, field: str, violations: FieldViolations) -> datetime:
    try:
        return fields.to_datetime(timestamp)
    except (ValueError, OverflowError):
        violations.add(field, "must be a valid time")
        return _EPOCH
