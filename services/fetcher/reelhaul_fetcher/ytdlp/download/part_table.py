"""The parts of a segmented stream, recorded in a file so that a later attempt can continue."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model.hls_playlist import Bounds
from reelhaul_runtime.errors import ReelhaulError

#: Parts of one stream. Each becomes a file that ffmpeg reads.
MAX_PARTS = 1000
# More than the longest table.
_MAX_TABLE_BYTES = 512 * MAX_PARTS


@dataclass(frozen=True, slots=True)
class Part:
    """A part with one clock: its start in the file received, and the bounds of its initialization section."""

    start: int
    init: Bounds | None = None
    #: SHA-256 of the initialization section; empty if there is none.
    digest: str = ""


class PartTable:
    """Parts in the order of the file, one line of JSON for each in the file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.parts: list[Part] = []
        #: End of the line of each part, in bytes.
        self._line_ends: list[int] = []

    def restore(self) -> bool:
        """Read the parts that an earlier attempt appended; return whether there are any.

        An incomplete last line, left by a crash, is ignored: its part is received again. If another line is
        invalid, there are no parts.
        """
        self.parts, self._line_ends = [], []
        try:
            with self._path.open("rb") as file:
                lines = file.read(_MAX_TABLE_BYTES).split(b"\n")[:-1]
            parts = [_parse_line(line) for line in lines]
        except (OSError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            return False
        for part, line in zip(parts, lines, strict=True):
            self._add(part, len(line) + 1)
        return bool(self.parts)

    def append(self, part: Part) -> None:
        """Append *part*. Raises OSError, FORMAT_UNAVAILABLE if there are too many."""
        check_count(len(self.parts) + 1)
        line = json.dumps(dataclasses.astuple(part)).encode() + b"\n"
        with self._path.open("ab") as file:
            # Remove an incomplete last line.
            file.truncate(self._size)
            file.write(line)
        self._add(part, len(line))

    def remove_from(self, position: int) -> None:
        """Remove the parts that begin at *position* or later: the file is received again from there."""
        count = len(self.parts)
        while self.parts and self.parts[-1].start >= position:
            self.parts.pop()
            self._line_ends.pop()
        if len(self.parts) < count:
            os.truncate(self._path, self._size)

    @property
    def _size(self) -> int:
        return self._line_ends[-1] if self._line_ends else 0

    def _add(self, part: Part, line_bytes: int) -> None:
        self._line_ends.append(self._size + line_bytes)
        self.parts.append(part)


def check_count(count: int) -> None:
    """Raise FORMAT_UNAVAILABLE if a stream of *count* parts has too many."""
    if count > MAX_PARTS:
        text = f"the clock of the media restarts more than {MAX_PARTS - 1} times"
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)


def _parse_line(line: bytes) -> Part:
    """Return the part of *line*. Raises ArithmeticError, LookupError, TypeError, ValueError."""
    row: Any = json.loads(line)
    start, init, digest = row
    return Part(int(start), (int(init[0]), int(init[1])) if init else None, str(digest))
