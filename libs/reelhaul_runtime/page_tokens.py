"""Pagination: page sizes, and page tokens signed and bound to the list's arguments.

``seal`` and ``unseal`` also sign other opaque tokens that a service hands to its callers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError

#: How long a page token is valid.
LIFETIME = timedelta(days=3)

_DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 50, 1000

_SIGNATURE_BYTES = 12


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PageTokens:
    """Creates and reads the page tokens of one service; replicas share *secret*.

    A token carries no authority: what the caller may see is decided anew for each page.
    """

    def __init__(self, secret: str | bytes, now: Callable[[], datetime] = _utc_now) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        self._key = hashlib.sha256(b"page tokens\0" + key).digest()
        self._now = now

    def create(self, arguments: str, *position: str | int | datetime) -> str:
        """Return the token of the page after *position*, the last item's values in the list's order.

        *arguments* are those that must stay the same from page to page, and name the list.
        """
        content = json.dumps([int(self._now().timestamp()), *position], default=_encode_time)
        return seal(self._key, content.encode(), arguments)

    def read(self, arguments: str, token: str) -> tuple[Any, ...] | None:
        """Return the position that *token* was created with; None for the empty token of the first page.

        Raises PAGE_TOKEN_INVALID if *token* is damaged, expired or of another list.
        """
        if not token:
            return None
        if (content := unseal(self._key, token, arguments)) is not None:
            created, *position = json.loads(content, object_hook=_decode_time)
            if self._now() - datetime.fromtimestamp(created, UTC) <= LIFETIME:
                return tuple(position)
        raise ReelhaulError(
            ErrorReason.PAGE_TOKEN_INVALID,
            "page_token is damaged, expired or of another list: begin with the first page",
        )


def limit_page_size(requested: int) -> int:
    """Return the page size for a request's ``page_size``: 50 for 0, at most 1000. Raises FIELD_INVALID."""
    if requested < 0:
        raise FieldInvalid("page_size", "must not be negative")
    return min(requested or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)


def seal(key: bytes, content: bytes, purpose: str) -> str:
    """Return *content* as URL-safe text, signed with *key* for *purpose*."""
    signed = _sign(key, content, purpose) + content
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def unseal(key: bytes, token: str, purpose: str) -> bytes | None:
    """Return the content of *token*, None if it was not sealed with *key* for *purpose*."""
    try:
        signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    signature, content = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    return content if hmac.compare_digest(signature, _sign(key, content, purpose)) else None


def _sign(key: bytes, content: bytes, purpose: str) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + content, "sha256")[:_SIGNATURE_BYTES]


def _encode_time(value: datetime) -> dict[str, str]:
    return {"time": value.isoformat()}


def _decode_time(value: dict[str, str]) -> datetime:
    return datetime.fromisoformat(value["time"])
