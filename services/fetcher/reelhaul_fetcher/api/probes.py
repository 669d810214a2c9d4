"""Probes: what is asked, and what a job would take."""

from __future__ import annotations

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul_fetcher.service.probe_cache import Probe, Question, estimate
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_ENTRIES = 1000
_DEFAULT_ENTRIES = 50


def question_of(request: fetcher_service_pb2.ProbeMediaRequest) -> Question:
    """What *request* asks. Raises URL_INVALID, URL_FORBIDDEN, FIELD_INVALID."""
    if not 0 <= request.max_entries <= _MAX_ENTRIES:
        raise FieldInvalid("max_entries", f"must be between 0 and {_MAX_ENTRIES}")
    cookies, who = request.format.cookies, identity.caller()
    tenant = request.tenant if who.suite else who.tenant
    return Question(
        admitted(request.url),
        request.max_entries or _DEFAULT_ENTRIES,
        request.playlist,
        cookies,
        tenant if cookies else "",
    )


def answer_of(
    probe: Probe, request: fetcher_service_pb2.ProbeMediaRequest
) -> fetcher_service_pb2.ProbeMediaResponse:
    """*probe* and what a job would take. Raises FORMAT_UNAVAILABLE."""
    answer = fetcher_service_pb2.ProbeMediaResponse(
        media=probe.media, estimate=estimate(probe.media, request.format)
    )
    answer.probe_time.FromDatetime(probe.at)
    return answer


def admitted(url: str) -> str:
    """*url*, if it is one that may be asked for at all. Raises URL_INVALID, URL_FORBIDDEN.

    What it leads to, the guard judges.
    """
    findings = FieldViolations()
    urls.check(url, "url", findings)
    findings.raise_any()
    return url
