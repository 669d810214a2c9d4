"""A receiver that costs next to nothing: just enough HTTP/2 to hold gRPC server streams open.

A Python gRPC client spends more on a message than the service does. Where one machine plays all
watchers at once, it would be measured instead of the service.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 4
_WIDEST = 2**31 - 1
_FIRST_WINDOW = 65_535

#: Told when a message came (seconds since the epoch) and what it holds.
Heard = Callable[[float, bytes], None]


class Receiver(asyncio.Protocol):
    """One connection and the streams in it. It never gives a window back.

    *window* is how many bytes the server may send in each stream: a small one makes a reader
    that has stopped to read.
    """

    def __init__(self, path: str, heard: Heard, window: int = _WIDEST) -> None:
        self._path, self._heard, self._window = path, heard, window
        self._streams: dict[int, bytes] = {}
        self._rest = b""
        #: Why the server ended a stream or the connection.
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and that the connection as a whole may carry all that it likes."""
        self._transport = cast(asyncio.WriteTransport, transport)
        settings = _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, self._window))
        wider = _frame(_WINDOW, 0, 0, struct.pack(">I", _WIDEST - _FIRST_WINDOW))
        self._transport.write(_PREFACE + settings + wider)

    def connection_lost(self, error: Exception | None) -> None:
        """The server closed it."""
        self._break("the connection was lost")

    def ask(self, request: bytes) -> None:
        """Open one more stream."""
        number = 2 * len(self._streams) + 1
        self._streams[number] = b""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": self._path,
            ":authority": "bench",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        opening = _frame(
            _HEADERS, _END_HEADERS, number, b"".join(map(_literal, *zip(*headers.items(), strict=True)))
        )
        self._transport.write(opening + _frame(_DATA, _END_STREAM, number, _prefixed(request)))

    def data_received(self, content: bytes) -> None:
        """All whole frames of what came, and of what was left before."""
        now = time.time()
        content = self._rest + content
        at = 0
        while len(content) - at >= 9 and len(content) >= (end := at + 9 + _size(content, at)):
            kind, flags = content[at + 3], content[at + 4]
            stream = int.from_bytes(content[at + 5 : at + 9], "big")
            if kind == _DATA:
                self._messages(now, stream, content[at + 9 : end])
            else:
                self._control(kind, flags, content[at + 9 : end])
            at = end
        self._rest = content[at:]

    def _messages(self, now: float, stream: int, content: bytes) -> None:
        content = self._streams[stream] + content
        while len(content) >= 5 and len(content) >= (end := 5 + int.from_bytes(content[1:5], "big")):
            self._heard(now, content[5:end])
            content = content[end:]
        self._streams[stream] = content

    def _control(self, kind: int, flags: int, content: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, content))
        elif kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self._break(f"the server ended it: frame {kind}, {content!r}")

    def _break(self, why: str) -> None:
        if not self.broken.done():
            self.broken.set_exception(ConnectionError(why))


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _size(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 3], "big")


def _prefixed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _literal(name: str, value: str) -> bytes:
    """A header as HPACK's literal without indexing."""
    return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))
