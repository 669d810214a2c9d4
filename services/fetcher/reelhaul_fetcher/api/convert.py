"""Conversion between the messages of FetcherService and the model; validates requests."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TypeVar

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.service.extractors import ExtractorQuery
from reelhaul_fetcher.service.fetches import TrackedFetch
from reelhaul_fetcher.service.probe_cache import ProbeQuery, ProbeResult
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size
from reelhaul_runtime.validation import fields, formats, urls
from reelhaul_runtime.validation.violations import FieldViolations

FetchEvent = TypeVar(
    "FetchEvent", fetcher_service_pb2.ExecuteFetchResponse, fetcher_service_pb2.WatchFetchResponse
)

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DEFAULT_ENTRIES, _MAX_ENTRIES = 50, 1000
_MAX_GRACE = timedelta(hours=12)
_MAX_SEARCH = 100
_MAX_TENANT = 128


def to_fetch_spec(request: fetcher_service_pb2.ExecuteFetchRequest) -> lease_pb2.FetchSpec:
    """Return the spec of the requested fetch, with defaults. Raises what ``FieldViolations`` raises."""
    violations, fetch = FieldViolations(), Fetch()
    fetch.CopyFrom(request.fetch)
    if fetch.attempt:
        violations.add("fetch.attempt", "must be empty: a direct fetch serves no attempt of a job")
    fields.clear_output(fetch)
    fields.check_enums(fetch, "fetch", violations)
    urls.check_url(fetch.url, "fetch.url", violations)
    formats.check_format(fetch.format, "fetch.format", violations)
    if fetch.format.live.mode == FormatSpec.Live.WAIT:
        violations.add("fetch.format.live.mode", "WAIT needs a queue: create a job instead, or use RECORD")
    if len(fetch.tenant) > _MAX_TENANT or not fetch.tenant.isprintable():
        violations.add("fetch.tenant", f"must be at most {_MAX_TENANT} printable characters")
    violations.raise_if_any()
    formats.apply_defaults(fetch.format)
    tenant = fetch.tenant or identity.caller().tenant
    return lease_pb2.FetchSpec(url=fetch.url, format=fetch.format, tenant=tenant)


async def to_fetch_events(fetch: TrackedFetch, response: type[FetchEvent]) -> AsyncIterator[FetchEvent]:
    """Yield the events of *fetch* as numbered messages of type *response*."""
    sequence = 0
    async for event in fetch.events():
        sequence += 1
        if isinstance(event, Fetch):
            yield response(sequence=sequence, snapshot=event)
        else:
            yield response(sequence=sequence, progress=event)


def check_request_id(request_id: str) -> str:
    """Return *request_id* in lower case; it may be empty. Raises FIELD_INVALID."""
    lower = request_id.lower()
    if lower and not re.fullmatch(_UUID, lower):
        raise FieldInvalid("request_id", "must be a UUID")
    return lower


def check_fetch_name(name: str) -> str:
    """Return *name* if it is the name of a fetch. Raises FIELD_INVALID."""
    if not re.fullmatch(f"fetches/{_UUID}", name):
        raise FieldInvalid("name", "must be fetches/ and a lower-case UUID")
    return name


def check_extractor_name(name: str) -> str:
    """Return the name of an extractor, of which *name* may be the id alone. Raises FIELD_INVALID."""
    extractor = name.removeprefix("extractors/")
    if not extractor or len(extractor) > _MAX_SEARCH:
        raise FieldInvalid("name", "must be extractors/ and the id of an extractor, as ListExtractors has it")
    return f"extractors/{extractor}"


def to_grace_seconds(request: fetcher_service_pb2.DrainFetcherRequest) -> float | None:
    """Return the seconds until unfinished work is requeued; None means no limit. Raises FIELD_INVALID."""
    if not request.HasField("grace"):
        return None
    violations = FieldViolations()
    violations.check_duration("grace", request.grace, timedelta(0), _MAX_GRACE)
    violations.raise_if_any()
    return request.grace.ToTimedelta().total_seconds()


def to_probe_query(request: fetcher_service_pb2.ProbeMediaRequest) -> ProbeQuery:
    """Return the query of *request*. Raises URL_INVALID, URL_FORBIDDEN, FIELD_INVALID."""
    if not 0 <= request.max_entries <= _MAX_ENTRIES:
        raise FieldInvalid("max_entries", f"must be between 0 and {_MAX_ENTRIES}")
    cookies = request.format.cookies
    return ProbeQuery(
        check_url(request.url),
        request.max_entries or _DEFAULT_ENTRIES,
        request.playlist,
        cookies,
        # Without cookies all tenants share the answer.
        probe_tenant(request) if cookies else "",
    )


def probe_tenant(request: fetcher_service_pb2.ProbeMediaRequest) -> str:
    """Return the tenant that *request* is for: the caller's, or the one that a service of the suite names."""
    caller = identity.caller()
    return request.tenant if caller.suite else caller.tenant


def to_probe_response(probe: ProbeResult, estimate: Estimate) -> fetcher_service_pb2.ProbeMediaResponse:
    """Return *probe* and *estimate* as the response of ProbeMedia."""
    response = fetcher_service_pb2.ProbeMediaResponse(media=probe.media, estimate=estimate)
    response.probe_time.FromDatetime(probe.time)
    return response


def check_url(url: str) -> str:
    """Return *url* if it is valid; the guard checks what it resolves to.

    Raises URL_INVALID, URL_FORBIDDEN.
    """
    violations = FieldViolations()
    urls.check_url(url, "url", violations)
    violations.raise_if_any()
    return url


def to_extractor_query(
    request: fetcher_service_pb2.ListExtractorsRequest, page_tokens: PageTokens
) -> ExtractorQuery:
    """Return the query of *request*. Raises FIELD_INVALID, PAGE_TOKEN_INVALID."""
    if len(request.search) > _MAX_SEARCH:
        raise FieldInvalid("search", f"must be at most {_MAX_SEARCH} characters")
    search = request.search.casefold()
    position = page_tokens.read(f"extractors {search}", request.page_token)
    return ExtractorQuery(limit_page_size(request.page_size), position[0] if position else "", search)


def to_extractors_response(
    query: ExtractorQuery, extractors: Sequence[Extractor], page_tokens: PageTokens
) -> fetcher_service_pb2.ListExtractorsResponse:
    """Return the page of *query*; *extractors* has one more than its size if another page follows."""
    page, has_more = extractors[: query.page_size], len(extractors) > query.page_size
    token = page_tokens.create(f"extractors {query.search}", page[-1].name) if has_more else ""
    return fetcher_service_pb2.ListExtractorsResponse(extractors=page, next_page_token=token)
