"""Between FetcherService's messages and the model: bounds of what comes in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.service.probing import Probe, Question, estimate
from reelhaul_fetcher.service.sites import Page
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError

_MAX_URL = 2048
_MAX_ENTRIES = 1000
_DEFAULT_ENTRIES = 50
_MAX_SEARCH = 100
# Bytes of a page token that tell which list it is of.
_MARK = 6


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


def page_of(request: fetcher_service_pb2.ListExtractorsRequest) -> Page:
    """Which sites *request* asks for. Raises FIELD_INVALID, PAGE_TOKEN_INVALID."""
    if request.page_size < 0:
        raise FieldInvalid("page_size", "must not be negative")
    if len(request.search) > _MAX_SEARCH:
        raise FieldInvalid("search", f"must be at most {_MAX_SEARCH} characters")
    size = min(request.page_size or _DEFAULT_ENTRIES, _MAX_ENTRIES)
    search = request.search.casefold()
    return Page(size, _after(request.page_token, search), search)


def sites_answer(page: Page, found: Sequence[Extractor]) -> fetcher_service_pb2.ListExtractorsResponse:
    """*found*, which *page* asked for: one more than its size where more follow."""
    shown = found[: page.size]
    more = _token(shown[-1].name, page.search) if found[page.size :] else ""
    return fetcher_service_pb2.ListExtractorsResponse(extractors=shown, next_page_token=more)


def _token(name: str, search: str) -> str:
    """Where a page of *search* ended. It is no secret and carries no authority."""
    return base64.urlsafe_b64encode(_mark(search) + name.encode()).rstrip(b"=").decode()


def _after(token: str, search: str) -> str:
    """The name behind which the page begins; PAGE_TOKEN_INVALID."""
    if not token:
        return ""
    try:
        told = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mark, name = told[:_MARK], told[_MARK:].decode()
    except ValueError:
        mark, name = b"", ""
    if mark != _mark(search):
        raise ReelhaulError(ErrorReason.PAGE_TOKEN_INVALID, "the page token is damaged or of another list")
    return name


def _mark(search: str) -> bytes:
    return hashlib.sha256(search.encode()).digest()[:_MARK]


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
