"""Pages: tokens that say where a list goes on, and that nobody but us can make up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

_LIFE = timedelta(days=3)
_SIGNATURE = 8

Place = tuple[datetime | int, str]


class Pages:
    """Page tokens. They carry no authority: who may see what is decided on each page anew."""

    def __init__(self, secret: str, now: Callable[[], datetime]) -> None:
        self._key = hashlib.sha256(b"page tokens\0" + secret.encode()).digest()
        self._now = now

    def token(self, place: Place, arguments: str) -> str:
        """For the page after *place* of the list that was asked for by *arguments*."""
        value, id_ = place
        told = value.isoformat() if isinstance(value, datetime) else value
        content = json.dumps([told, id_, _digest(arguments), int(self._now().timestamp())]).encode()
        return base64.urlsafe_b64encode(self._sign(content) + content).decode().rstrip("=")

    def place(self, token: str, arguments: str) -> Place | None:
        """Where the page of *token* begins; None for the first.

        PAGE_TOKEN_INVALID: damaged, older than three days, or of other arguments.
        """
        if not token:
            return None
        try:
            signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (ValueError, binascii.Error):
            raise _invalid("is damaged") from None
        signature, content = signed[:_SIGNATURE], signed[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(content)):
            raise _invalid("is damaged")
        told, id_, digest, issued = json.loads(content)
        if digest != _digest(arguments):
            raise _invalid("belongs to other arguments")
        if self._now() - datetime.fromtimestamp(issued, UTC) > _LIFE:
            raise _invalid("is too old")
        return (datetime.fromisoformat(told) if isinstance(told, str) else told), id_

    def _sign(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_SIGNATURE]


def _digest(arguments: str) -> str:
    return hashlib.sha256(arguments.encode()).hexdigest()[:16]


def _invalid(what: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.PAGE_TOKEN_INVALID, f"page_token {what}: begin with the first page")
