"""Minimal gRPC server over HTTP/2, which costs a tenth of what a Python gRPC server does.

A call of grpc.aio costs 250 µs, more than Envoy: as the upstream, it would be what is measured. This one
supports only what the benchmark sends: requests of one message, without padding, priorities or compression.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Frame types, flags and settings of RFC 9113, sections 6 and 6.5.2.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 1, 3, 4
_DEFAULT_WINDOW, _MAX_WINDOW = 65_535, 2**31 - 1
_MAX_FRAME_BYTES = 16_384
_MESSAGE_PREFIX_BYTES = 5
# RFC 7541: ":status: 200" is entry 8 of the static table, "content-type" entry 31.
_RESPONSE_HEADERS = b"\x88\x0f\x10\x10application/grpc"
_TRAILERS = b"\x00\x0bgrpc-status\x010"


@dataclass(eq=False)
class Stream:
    """A call in progress."""

    number: int
    method: str
    #: Bytes that the peer accepts.
    window: int
    #: Bytes of the request, with the prefix of the message.
    request: bytes = b""
    #: Bytes of the response that wait for a window.
    unsent: bytes = b""
    ended: bool = False
    #: Whether the peer has ended the call, or all of it is sent.
    closed: bool = False


#: Answers a call on a connection with messages; it is given the serialized request.
Handler = Callable[["Http2Connection", Stream, bytes], None]


class Http2Connection(asyncio.Protocol):
    """One connection; *handlers* are by the path of the method."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
        # Paths as they stand in a block of headers: the client may not index them, so they are spelled out.
        self._paths = [
            (form, path) for path in handlers for form in (path.encode(), encoder.encode(path.encode()))
        ]
        self._streams: dict[int, Stream] = {}
        self._buffer, self._output = b"", list[bytes]()
        self._window, self._initial_window = _DEFAULT_WINDOW, _DEFAULT_WINDOW
        self._preface_missing = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings: no table of headers, and the largest windows."""
        self._transport = cast(asyncio.WriteTransport, transport)
        settings = {_HEADER_TABLE_SIZE: 0, _MAX_CONCURRENT_STREAMS: 10_000, _INITIAL_WINDOW_SIZE: _MAX_WINDOW}
        content = b"".join(struct.pack(">HI", *setting) for setting in settings.items())
        window = struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW)
        self._transport.write(_frame(_SETTINGS, 0, 0, content) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def connection_lost(self, error: Exception | None) -> None:
        """Close all streams."""
        for stream in self._streams.values():
            stream.closed = True

    def data_received(self, content: bytes) -> None:
        """Process all complete frames, and send all that they cause at once."""
        content = self._buffer + content
        at = 0
        if self._preface_missing and content.startswith(_PREFACE):
            self._preface_missing, at = False, len(_PREFACE)
        while len(content) - at >= 9 and not self._preface_missing:
            end = at + 9 + int.from_bytes(content[at : at + 3], "big")
            if len(content) < end:
                break
            number = int.from_bytes(content[at + 5 : at + 9], "big")
            self._process(content[at + 3], content[at + 4], number, content[at + 9 : end])
            at = end
        self._buffer = content[at:]
        self.flush()

    def send(self, stream: Stream, message: bytes, *, last: bool) -> None:
        """Queue a message of the response; it is sent by ``flush``."""
        stream.unsent += struct.pack(">BI", 0, len(message)) + message
        stream.ended = last
        self._send_unsent(stream)

    def flush(self) -> None:
        """Write what is queued."""
        if self._output and not self._transport.is_closing():
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def _process(self, kind: int, flags: int, number: int, content: bytes) -> None:
        if kind == _HEADERS:
            method = next(path for form, path in self._paths if form in content)
            self._streams[number] = Stream(number, method, self._initial_window)
            self._output.append(_frame(_HEADERS, _END_HEADERS, number, _RESPONSE_HEADERS))
        elif kind == _DATA and number in self._streams:
            stream = self._streams[number]
            stream.request += content
            if flags & _END_STREAM:
                self._handlers[stream.method](self, stream, stream.request[_MESSAGE_PREFIX_BYTES:])
        elif kind == _RST_STREAM:
            if stream_ := self._streams.pop(number, None):
                stream_.closed = True
        elif kind == _WINDOW_UPDATE:
            self._enlarge_window(number, int.from_bytes(content, "big"))
        elif kind == _SETTINGS and not flags & _ACK:
            self._apply_settings(content)
            self._output.append(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._output.append(_frame(_PING, _ACK, 0, content))

    def _apply_settings(self, content: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", content):
            if key == _INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._initial_window
                self._initial_window = value

    def _enlarge_window(self, number: int, size: int) -> None:
        if number == 0:
            self._window += size
            for stream in [stream for stream in self._streams.values() if stream.unsent]:
                self._send_unsent(stream)
        elif stream_ := self._streams.get(number):
            stream_.window += size
            self._send_unsent(stream_)

    def _send_unsent(self, stream: Stream) -> None:
        """Send as much as the windows allow; after the last byte of the last message, the trailers."""
        while (
            stream.unsent
            and (size := min(len(stream.unsent), _MAX_FRAME_BYTES, self._window, stream.window)) > 0
        ):
            self._output.append(_frame(_DATA, 0, stream.number, stream.unsent[:size]))
            stream.unsent = stream.unsent[size:]
            stream.window -= size
            self._window -= size
        if stream.ended and not stream.unsent and not stream.closed:
            stream.closed = True
            self._output.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream.number, _TRAILERS))
            del self._streams[stream.number]


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content
