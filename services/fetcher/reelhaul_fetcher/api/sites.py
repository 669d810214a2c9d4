"""Sites that the engine reads: pages of them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.api.pages import page_size
from reelhaul_fetcher.service.sites import Page
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError

_MAX_SEARCH = 100
# Bytes of a page token that tell which list it is of.
_MARK = 6


def page_of(request: fetcher_service_pb2.ListExtractorsRequest) -> Page:
    """Which sites *request* asks for. Raises FIELD_INVALID, PAGE_TOKEN_INVALID."""
    if len(request.search) > _MAX_SEARCH:
        raise FieldInvalid("search", f"must be at most {_MAX_SEARCH} characters")
    search = request.search.casefold()
    return Page(page_size(request.page_size), _after(request.page_token, search), search)


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
