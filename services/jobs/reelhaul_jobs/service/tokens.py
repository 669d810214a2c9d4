"""Page and resume tokens: positions that a caller carries and cannot make up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

#: How long a page token is good.
PAGE_TOKEN_LIFE = timedelta(days=3)

_RESUME = struct.Struct(">QQ")
_PAGE = struct.Struct(">QQ16sI")
_SEAL = 12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a watcher was: the last sequence it saw, and when."""

    sequence: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the last one's time and key; and how many there are in all."""

    time: datetime
    key: bytes
    total: int = 0


class Tokens:
    """Seals positions with a key that all replicas share. A token carries no authority."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def resume(self, job_id: str, position: Position) -> str:
        """A resume_token of a watch of *job_id*."""
        return self._sealed(_RESUME.pack(position.sequence, _micros(position.time)), f"watch {job_id}")

    def position(self, job_id: str, token: str) -> Position:
        """Where *token* says that the watcher was, or RESUME_TOKEN_INVALID."""
        content = self._opened(token, f"watch {job_id}", _RESUME.size)
        if content is None:
            raise ReelhaulError(
                ErrorReason.RESUME_TOKEN_INVALID, "the resume token is damaged or of another watch"
            )
        sequence, moment = _RESUME.unpack(content)
        return Position(sequence, _time(moment))

    def page(self, arguments: str, last: Place, now: datetime) -> str:
        """A page_token: what follows *last*, for a list asked with just these *arguments*."""
        packed = _PAGE.pack(_micros(now), _micros(last.time), last.key, last.total)
        return self._sealed(packed, f"page {arguments}")

    def after(self, arguments: str, token: str, now: datetime) -> Place:
        """Where the page before ended, or PAGE_TOKEN_INVALID."""
        content = self._opened(token, f"page {arguments}", _PAGE.size)
        if content is not None:
            issued, moment, key, total = _PAGE.unpack(content)
            if _time(issued) + PAGE_TOKEN_LIFE > now:
                return Place(_time(moment), key, total)
        raise ReelhaulError(
            ErrorReason.PAGE_TOKEN_INVALID, "the page token is damaged, too old or of another list"
        )

    def _sealed(self, content: bytes, purpose: str) -> str:
        sealed = content + self._seal(content, purpose)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def _opened(self, token: str, purpose: str, size: int) -> bytes | None:
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        content, seal = sealed[:size], sealed[size:]
        good = len(content) == size and hmac.compare_digest(seal, self._seal(content, purpose))
        return content if good else None

    def _seal(self, content: bytes, purpose: str) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\0" + content, hashlib.sha256)[:_SEAL]


def _micros(time: datetime) -> int:
    # Each message of a watch has one: a division of timedeltas takes four times as long.
    passed = time - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _time(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=min(value, 2**53))
