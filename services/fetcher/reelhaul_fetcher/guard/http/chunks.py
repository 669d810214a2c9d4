"""Where a chunked body ends, found while its bytes pass through untouched."""

from __future__ import annotations

import re

from reelhaul_fetcher.guard.errors import Malformed


class Chunks:
    """Reads along with a chunked body. ``done`` turns true behind its last byte."""

    def __init__(self) -> None:
        self.done = False
        self._data = 0  # bytes of the present chunk that are still to come, its final line end included
        self._line = b""  # the beginning of a line whose end has not come
        self._trailers = False

    def feed(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Read ``data[start:end]``; returns where the body's part of it ends. Raises ``Malformed``."""
        while start < end and not self.done:
            read = self._skip if self._data else self._read_line
            start = read(data, start, end)
        return start

    def _skip(self, data: bytes | bytearray, start: int, end: int) -> int:
        step = min(self._data, end - start)
        after = self._data - step
        # The last two bytes of a chunk are its line end, in whatever pieces they come.
        for left in range(min(self._data, 2), after, -1):
            if data[start + self._data - left] != b"\n\r"[left - 1]:
                raise Malformed("chunk")
        self._data = after
        return start + step

    def _read_line(self, data: bytes | bytearray, start: int, end: int) -> int:
        newline = data.find(b"\n", start, end)
        stop = end if newline < 0 else newline + 1
        if len(self._line) + stop - start > _LINE_LIMIT:
            raise Malformed("chunk")
        self._line += bytes(data[start:stop])
        if newline >= 0:
            line, self._line = self._line, b""
            self._take(line)
        return stop

    def _take(self, line: bytes) -> None:
        if self._trailers:
            self.done = line == b"\r\n"
            if not _TRAILER.fullmatch(line):
                raise Malformed("chunk")
            return
        size = _SIZE.fullmatch(line)
        if not size:
            raise Malformed("chunk")
        length = int(size[1], 16)
        self._trailers = length == 0
        self._data = length + 2 if length else 0


_LINE_LIMIT = 4096
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!-9;-~]+:[\t -~\x80-\xff]*)?\r\n")
