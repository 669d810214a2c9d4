"""Pipe stream: text written to a pipe or a socket whose reader may have stopped reading."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from typing import TextIO

# poll(2) says of a pipe that so many bytes do not block.
_CHUNK_BYTES = 4096
# How long a write waits for the reader; the ones after it do not wait, until it reads again.
_PATIENCE_MILLISECONDS = 100


class PipeStream:
    """Writes text to the descriptor *handle*, and drops it if nobody reads.

    Otherwise a reader that has stopped, such as a container engine with a full disk, would stop this process
    at its next line. *describe_loss* returns the line that says how many were dropped. Not thread-safe.
    """

    def __init__(self, handle: int, describe_loss: Callable[[int], str]) -> None:
        self._handle, self._describe_loss = handle, describe_loss
        self._poll = select.poll()
        self._poll.register(handle, select.POLLOUT)
        self._dropped_lines = 0
        # Whether the last line that was written lacks its end.
        self._is_cut = False

    def write(self, text: str) -> int:
        """Write *text*, whole lines, or drop it. Raises OSError if there is no reader any more."""
        if self._dropped_lines:
            if not self._poll.poll(0):
                self._dropped_lines += text.count("\n")
                return len(text)
            loss, self._dropped_lines = self._describe_loss(self._dropped_lines), 0
            text = f"{loss}\n{text}"
        end = "\n" if self._is_cut else ""
        content = memoryview(f"{end}{text}".encode(errors="backslashreplace"))
        written = 0
        while written < len(content):
            if not self._poll.poll(_PATIENCE_MILLISECONDS):
                rest = bytes(content[written:])
                self._dropped_lines = rest.count(b"\n")
                self._is_cut = bool(written) and content[written - 1] != ord("\n")
                return len(text)
            written += os.write(self._handle, content[written : written + _CHUNK_BYTES])
        self._is_cut = False
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing waits."""


def standard_error(describe_loss: Callable[[int], str]) -> PipeStream | TextIO:
    """Return standard error; as a PipeStream if it is a pipe or a socket."""
    try:
        handle = sys.stderr.fileno()
        mode = os.fstat(handle).st_mode
    except (OSError, ValueError):  # closed, or replaced by an object without a descriptor
        return sys.stderr
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    return PipeStream(handle, describe_loss) if is_pipe else sys.stderr
