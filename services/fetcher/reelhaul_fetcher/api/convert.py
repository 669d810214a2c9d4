"""Fetches: what is asked to be fetched, and by what name; how a worker is to be drained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec
from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.service.extractors import ExtractorQuery
from reelhaul_fetcher.service.probe_cache import ProbeQuery, ProbeResult
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.validation import fields, formats, urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_TENANT = 128
_MAX_GRACE = timedelta(hours=12)
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def to_fetch_spec(request: fetcher_service_pb2.ExecuteFetchRequest) -> lease_pb2.FetchSpec:
    """Return *request* as a FetchSpec with all defaults. Raises as ``FieldViolations.raise_if_any``."""
    findings, asked = FieldViolations(), Fetch()
    asked.CopyFrom(request.fetch)
    if asked.attempt:
        findings.add("fetch.attempt", "a fetch that is asked for directly serves none")
    fields.clear_output(asked)
    fields.check_enums(asked, "fetch", findings)
    urls.check_url(asked.url, "fetch.url", findings)
    formats.check_format(asked.format, "fetch.format", findings)
    if asked.format.live.mode == FormatSpec.Live.WAIT:
        findings.add("fetch.format.live.mode", "nothing waits without a queue: make a job of it, or RECORD")
    if len(asked.tenant) > _MAX_TENANT or not asked.tenant.isprintable():
        findings.add("fetch.tenant", f"at most {_MAX_TENANT} printable characters")
    findings.raise_if_any()
    formats.apply_defaults(asked.format)
    tenant = asked.tenant or identity.caller().tenant
    return lease_pb2.FetchSpec(url=asked.url, format=asked.format, tenant=tenant)


def check_request_id(request: fetcher_service_pb2.ExecuteFetchRequest) -> str:
    """Its request_id, lower-case or empty. Raises FIELD_INVALID."""
    told = request.request_id.lower()
    if told and not re.fullmatch(_UUID, told):
        raise FieldInvalid("request_id", "it is not a UUID")
    return told


def check_fetch_name(name: str) -> str:
    """*name*, if it is one of a fetch. Raises FIELD_INVALID."""
    if not re.fullmatch(f"fetches/{_UUID}", name):
        raise FieldInvalid("name", "must be fetches/ and a lower-case UUID")
    return name


def grace_seconds(request: fetcher_service_pb2.DrainFetcherRequest) -> float | None:
    """Seconds until unfinished work is handed back; None: however long it takes. Raises FIELD_INVALID."""
    if not request.HasField("grace"):
        return None
    findings = FieldViolations()
    findings.check_duration("grace", request.grace, timedelta(0), _MAX_GRACE)
    findings.raise_if_any()
    return request.grace.ToTimedelta().total_seconds()


_MAX_ENTRIES = 1000
_DEFAULT_ENTRIES = 50


def to_probe_query(request: fetcher_service_pb2.ProbeMediaRequest) -> ProbeQuery:
    """What *request* asks. Raises URL_INVALID, URL_FORBIDDEN, FIELD_INVALID."""
    if not 0 <= request.max_entries <= _MAX_ENTRIES:
        raise FieldInvalid("max_entries", f"must be between 0 and {_MAX_ENTRIES}")
    cookies, who = request.format.cookies, identity.caller()
    tenant = request.tenant if who.suite else who.tenant
    return ProbeQuery(
        check_url(request.url),
        request.max_entries or _DEFAULT_ENTRIES,
        request.playlist,
        cookies,
        tenant if cookies else "",
    )


def to_probe_response(probe: ProbeResult, estimate: Estimate) -> fetcher_service_pb2.ProbeMediaResponse:
    """Return *probe* and *estimate* as the response of ProbeMedia."""
    response = fetcher_service_pb2.ProbeMediaResponse(media=probe.media, estimate=estimate)
    response.probe_time.FromDatetime(probe.time)
    return response


def check_url(url: str) -> str:
    """*url*, if it is one that may be asked for at all. Raises URL_INVALID, URL_FORBIDDEN.

    What it leads to, the guard judges.
    """
    findings = FieldViolations()
    urls.check_url(url, "url", findings)
    findings.raise_if_any()
    return url


_MAX_SEARCH = 100


def to_extractor_query(
    request: fetcher_service_pb2.ListExtractorsRequest, page_tokens: PageTokens
) -> ExtractorQuery:
    """Which sites *request* asks for. Raises FIELD_INVALID, PAGE_TOKEN_INVALID."""
    if len(request.search) > _MAX_SEARCH:
        raise FieldInvalid("search", f"must be at most {_MAX_SEARCH} characters")
    search = request.search.casefold()
    position = page_tokens.read(f"extractors {search}", request.page_token)
    return ExtractorQuery(page_size(request.page_size), position[0] if position else "", search)


def to_extractors_response(
    page: ExtractorQuery, found: Sequence[Extractor], page_tokens: PageTokens
) -> fetcher_service_pb2.ListExtractorsResponse:
    """*found*, which *page* asked for: one more than its size where more follow."""
    shown = found[: page.page_size]
    more = page_tokens.create(f"extractors {page.search}", shown[-1].name) if found[page.page_size :] else ""
    return fetcher_service_pb2.ListExtractorsResponse(extractors=shown, next_page_token=more)


_DEFAULT_PAGE, _MAX_PAGE = 50, 1000


def page_size(size: int) -> int:
    """How many to tell at most. Raises FIELD_INVALID."""
    if size < 0:
        raise FieldInvalid("page_size", "it is negative")
    return min(size or _DEFAULT_PAGE, _MAX_PAGE)
