"""Minimal HTTP/2 client that holds gRPC server streams open and costs next to nothing.

A Python gRPC client needs more CPU for a message than the service. With all watchers on one machine, the
clients would be measured instead of the service.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Frame types, flags and settings of RFC 9113, sections 6 and 6.5.2.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_FRAME_HEADER_BYTES, _MESSAGE_PREFIX_BYTES = 9, 5

#: Receives the arrival time (seconds since the epoch) and the content of a message.
MessageHandler = Callable[[float, bytes], None]


class Http2Receiver(asyncio.Protocol):
    """One connection with its streams. It never enlarges a stream's window.

    *window*: bytes that the server may send in each stream; with a small one the client acts as a reader
    that has stopped reading.
    """

    def __init__(self, path: str, handler: MessageHandler, window: int = _MAX_WINDOW) -> None:
        self._path, self._handler, self._window = path, handler, window
        #: Incomplete message of each stream.
        self._streams: dict[int, bytes] = {}
        #: Incomplete frame.
        self._buffer = b""
        #: Fails when the server ends a stream or the connection.
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface, with the largest window for the connection as a whole."""
        self._transport = cast(asyncio.WriteTransport, transport)
        settings = _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, self._window))
        window_update = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW))
        self._transport.write(_PREFACE + settings + window_update)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail ``closed``."""
        self._close("the connection was lost")

    def open_stream(self, request: bytes) -> None:
        """Call the method at the receiver's path with the serialized *request*."""
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
        block = b"".join(_literal_header(name, value) for name, value in headers.items())
        message = struct.pack(">BI", 0, len(request)) + request
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, number, block) + _frame(_DATA, _END_STREAM, number, message)
        )

    def data_received(self, content: bytes) -> None:
        """Process all complete frames."""
        now = time.time()
        content = self._buffer + content
        at = 0
        while len(content) - at >= _FRAME_HEADER_BYTES:
            end = at + _FRAME_HEADER_BYTES + int.from_bytes(content[at : at + 3], "big")
            if len(content) < end:
                break
            kind, flags = content[at + 3], content[at + 4]
            stream = int.from_bytes(content[at + 5 : at + 9], "big")
            payload = content[at + _FRAME_HEADER_BYTES : end]
            if kind == _DATA:
                self._process_data(now, stream, payload)
            else:
                self._process_control(kind, flags, payload)
            at = end
        self._buffer = content[at:]

    def _process_data(self, now: float, stream: int, content: bytes) -> None:
        content = self._streams[stream] + content
        while len(content) >= _MESSAGE_PREFIX_BYTES:
            end = _MESSAGE_PREFIX_BYTES + int.from_bytes(content[1:5], "big")
            if len(content) < end:
                break
            self._handler(now, content[_MESSAGE_PREFIX_BYTES:end])
            content = content[end:]
        self._streams[stream] = content

    def _process_control(self, kind: int, flags: int, content: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, content))
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self._close(f"the server ended it: frame {kind}, {content!r}")

    def _close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_exception(ConnectionError(reason))


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _literal_header(name: str, value: str) -> bytes:
    """Encode a header as a literal without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))
