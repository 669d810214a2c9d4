"""Between FetcherService's messages and the model: bounds of what comes in."""

from __future__ import annotations

from urllib.parse import urlsplit

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.service.probing import Probe, Question, estimate
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError

_MAX_URL = 2048
_MAX_ENTRIES = 1000
_DEFAULT_ENTRIES = 50


def question_of(request: fetcher_service_pb2.ProbeMediaRequest) -> Question:
    """What *request* asks. Raises URL_INVALID, FIELD_INVALID."""
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
    """*url*, if it is one that may be asked for at all. Raises URL_INVALID.

    What it leads to, the guard judges.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid(url, "does not parse") from None
    if not url:
        raise _invalid(url, "is missing")
    if len(url) > _MAX_URL:
        raise _invalid(url[:100], f"is longer than {_MAX_URL} characters")
    if parts.scheme not in ("http", "https"):
        raise _invalid(url, "must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise _invalid(url, "names no host")
    if parts.username is not None or parts.password is not None:
        raise _invalid(f"{parts.scheme}://{parts.hostname}", "must not hold user info")
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url):
        raise _invalid(url, "holds spaces or control characters")
    return url


def _invalid(url: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.URL_INVALID, f"the url {text}", metadata={"url": url})
