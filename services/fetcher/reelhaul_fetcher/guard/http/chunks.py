"""Finds the end of a chunked body while its bytes are relayed unchanged."""

from __future__ import annotations

import re

from reelhaul_fetcher.guard.errors import Malformed


class ChunkScanner:
    """Scans a chunked body (RFC 9112, section 7.1). ``done`` is set after its last byte."""

    def __init__(self) -> None:
        self.done = False
        self._chunk_left = 0  # bytes left in the current chunk, its line end included
        self._line = b""  # the beginning of an incomplete line
        self._in_trailers = False

    def feed(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Scan ``data[start:end]``, or the first of many chunks in it; return where that ends.

        Raises ``Malformed``.
        """
        for _ in range(_MAX_STEPS):
            if start >= end or self.done:
                break
            scan = self._skip_chunk if self._chunk_left else self._read_line
            start = scan(data, start, end)
        return start

    def _skip_chunk(self, data: bytes | bytearray, start: int, end: int) -> int:
        step = min(self._chunk_left, end - start)
        left_after = self._chunk_left - step
        # The last two bytes of a chunk are its line end; they may arrive apart.
        for left in range(min(self._chunk_left, 2), left_after, -1):
            if data[start + self._chunk_left - left] != b"\n\r"[left - 1]:
                raise Malformed("chunk")
        self._chunk_left = left_after
        return start + step

    def _read_line(self, data: bytes | bytearray, start: int, end: int) -> int:
        newline = data.find(b"\n", start, end)
        stop = end if newline < 0 else newline + 1
        if len(self._line) + stop - start > _LINE_LIMIT:
            raise Malformed("chunk")
        self._line += bytes(data[start:stop])
        if newline >= 0:
            line, self._line = self._line, b""
            self._parse_line(line)
        return stop

    def _parse_line(self, line: bytes) -> None:
        if self._in_trailers:
            self.done = line == b"\r\n"
            if not _TRAILER.fullmatch(line):
                raise Malformed("chunk")
            return
        header = _HEADER.fullmatch(line)
        if not header:
            raise Malformed("chunk")
        length = int(header[1], 16)
        self._in_trailers = length == 0
        self._chunk_left = length + 2 if length else 0


# Of one call, which blocks the guard's loop: some milliseconds. A buffer may hold 20,000 chunks of a byte.
_MAX_STEPS = 2000
_LINE_LIMIT = 4096
_HEADER = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!-9;-~]+:[\t -~\x80-\xff]*)?\r\n")
