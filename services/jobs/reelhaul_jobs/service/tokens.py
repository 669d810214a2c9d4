"""Resume tokens: positions in a watch that a caller carries and cannot make up."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.page_tokens import seal, unseal

_POSITION = struct.Struct(">QQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a watcher was: the last sequence it saw, and when."""

    sequence: int
    time: datetime


class Tokens:
    """Signs positions with a key that all replicas share. A token carries no authority."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def resume(self, job_id: str, position: Position) -> str:
        """Return a resume_token of a watch of *job_id*."""
        content = _POSITION.pack(position.sequence, _microseconds(position.time))
        return seal(self._key, content, f"watch {job_id}")

    def position(self, job_id: str, token: str) -> Position:
        """Return the watcher's position in *token*. Raises RESUME_TOKEN_INVALID."""
        content = unseal(self._key, token, f"watch {job_id}")
        if content is None:
            raise ReelhaulError(
                ErrorReason.RESUME_TOKEN_INVALID, "the resume token is damaged or of another watch"
            )
        sequence, microseconds = _POSITION.unpack(content)
        return Position(sequence, _EPOCH + timedelta(microseconds=min(microseconds, 2**53)))


def _microseconds(time: datetime) -> int:
    # Each message of a watch has one: a division of timedeltas takes four times as long.
    passed = time - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
