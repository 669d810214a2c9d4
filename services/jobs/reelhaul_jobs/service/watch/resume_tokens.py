"""Resume tokens: signed positions in a watch stream, which callers carry and cannot forge."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.page_tokens import seal, unseal

_POSITION = struct.Struct(">QQ")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Lower half of the sequence of a terminal snapshot; that of anything else is smaller.
END_COUNTER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Position:
    """A watcher's position: the sequence of its last message, and when that was sent."""

    sequence: int
    time: datetime

    @property
    def is_end(self) -> bool:
        """Whether it is the position of a terminal snapshot: the watcher has received everything."""
        return self.sequence & END_COUNTER == END_COUNTER


class ResumeTokens:
    """Signs positions with a key that all replicas share. A token carries no authority."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def create(self, watch: str, position: Position) -> str:
        """Return the resume_token of *position* in *watch*: a job id, or the filter of a watch of many."""
        content = _POSITION.pack(position.sequence, _microseconds(position.time))
        return seal(self._key, content, f"watch {watch}")

    def read(self, watch: str, token: str) -> Position:
        """Return the position in *token*. RESUME_TOKEN_INVALID if it is damaged or of another watch."""
        content = unseal(self._key, token, f"watch {watch}")
        if content is None:
            raise ReelhaulError(
                ErrorReason.RESUME_TOKEN_INVALID, "resume_token is damaged or belongs to another watch"
            )
        sequence, microseconds = _POSITION.unpack(content)
        return Position(sequence, _EPOCH + timedelta(microseconds=min(microseconds, 2**53)))


def _microseconds(time: datetime) -> int:
    # Every message of a watch has a token, and dividing timedeltas takes four times as long.
    elapsed = time - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
