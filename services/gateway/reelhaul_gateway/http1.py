"""HTTP/1.1 and WebSockets: uvicorn's connections within the limits of the gateway.

uvicorn limits only the pause between two requests, and its parser nothing. The classes here add what they
lack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from itertools import chain
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame

from reelhaul_gateway.connections import MAX_HEAD_BYTES, MAX_HEADERS, ConnectionTable, Handshake
from reelhaul_gateway.http1_response import ResponseWriter
from reelhaul_gateway.refusals import refuse

# The parser gets no more at once, so that an unfinished head exceeds the limit by no more.
_MAX_READ_BYTES = 16 << 10
# Chunk sizes, extensions and trailers: with one byte per chunk they are six times the body.
_MAX_FRAMING_FACTOR = 8
# Requests that wait for the response to an earlier one on their connection. Browsers send none.
_MAX_PIPELINED = 16
# Fragments of one WebSocket message. No client needs to send any: empty ones would have no limit of bytes.
_MAX_FRAGMENTS = 64
# https://www.rfc-editor.org/rfc/rfc9113#section-3.4
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class _Refused(Exception):
    """Stops the parser; ``HttpConnection.send_400_response`` then sends the status of the refusal."""


class HttpConnection(HttpToolsProtocol):
    """A uvicorn connection within the limits of *table*, after *handshake* if it uses TLS.

    If the client begins with HTTP/2, *create_http2* returns the protocol that takes over.
    """

    def __init__(
        self,
        table: ConnectionTable,
        create_http2: Callable[[HttpConnection], asyncio.Protocol],
        handshake: Handshake | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._table, self._create_http2, self._handshake = table, create_http2, handshake
        # What was received so far, as long as it may be the start of HTTP/2; None afterwards.
        self._preface: bytes | None = b""
        self.within_limits = True
        self._refusal = HTTPStatus.BAD_REQUEST
        # The head that is being received, and the time of its first byte; None between two requests.
        self._in_head = True
        self._head_start: float | None = None
        self._head_bytes = 0
        # The body that is being received: the bytes of it, and those with their framing.
        self._body_start = 0.0
        self._body_bytes = self._wire_bytes = 0
        # The part of the table's body bytes that is this connection's.
        self._held_bytes = 0
        # Whether a head has begun to arrive, and whether a message began or ended in the data just received.
        self._head_began = self._has_boundary = False
        self._last_check = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._handshake is None:
            self._head_start = self.loop.time()
            self.within_limits = self._table.add(self, self.client[0] if self.client else "")
        else:
            self.client = self._handshake.client
            self._head_start, self.within_limits = self._handshake.start, self._handshake.within_limits
            self._table.replace(self._handshake, self)
            self._handshake = None
        if not self.within_limits:
            self.app = self._table.overloaded

    def connection_lost(self, exc: Exception | None) -> None:
        self._release_body()
        self._table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._preface is not None:
            data, self._preface = self._preface + data, None
            if data.startswith(_HTTP2_PREFACE):
                self._hand_over(data)
                return
            if _HTTP2_PREFACE.startswith(data):
                self._preface = data
                return
        if len(data) <= _MAX_READ_BYTES:
            self._parse(data)
            return
        for start in range(0, len(data), _MAX_READ_BYTES):
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            self._parse(data[start : start + _MAX_READ_BYTES])

    def _parse(self, data: bytes) -> None:
        if self._head_start is None and self._in_head:
            self._head_start = self.loop.time()
        self._has_boundary = False
        super().data_received(data)
        # How much of the data belongs to a message that began in it is unknown; it is at most one piece.
        size = 0 if self._has_boundary else len(data)
        if self._in_head:
            self._head_bytes += size
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._wire_bytes += size
            if self._wire_bytes > MAX_HEAD_BYTES + _MAX_FRAMING_FACTOR * self._body_bytes:
                self._refuse(HTTPStatus.BAD_REQUEST)

    def _hand_over(self, data: bytes) -> None:
        self.connections.discard(self)
        successor: Any = self._create_http2(self)
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(data)

    def handle_websocket_upgrade(self) -> None:
        if not self.within_limits:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._table.mark_busy(self)
        super().handle_websocket_upgrade()
        successor: Any = self.transport.get_protocol()
        self._table.replace(self, successor)

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self._head_began = self._has_boundary = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if (
            len(self.headers) > MAX_HEADERS
            or len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > MAX_HEAD_BYTES
        ):
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _Refused
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise _Refused
        self._in_head, self._head_start = False, None
        self._body_start = self._last_check = self.loop.time()
        self._body_bytes = self._wire_bytes = 0
        self._table.mark_busy(self)
        super().on_headers_complete()
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            # Trailers are not fields of the head, whose list the request has.
            self.headers = []

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        with_writer: Any = ResponseWriter(cycle, app)
        super()._start_asgi_task(cycle, with_writer)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self.cycle.response_complete:
            self._held_bytes += len(body)
            self._table.body_bytes += len(body)
            if self._table.body_bytes > self._table.limits.total_body_bytes:
                self._refusal = HTTPStatus.SERVICE_UNAVAILABLE
                raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = self._has_boundary = True
        self._head_began = False
        super().on_message_complete()
        self._mark_idle_between_requests()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._release_body()
        self._mark_idle_between_requests()

    def shutdown(self) -> None:
        """Close the connection, after the response to the request that it serves."""
        super().shutdown()
        if self.cycle is not None:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def abort(self) -> None:
        self.transport.abort()

    def check_time(self, now: float) -> None:
        """Close the connection if its client takes too long to send."""
        pause, self._last_check = now - self._last_check, now
        if self.flow.read_paused:
            # It waits for us. The pause does not count as the client's time.
            self._body_start += pause
            if self._head_start is not None:
                self._head_start += pause
        elif self._in_head:
            if self._head_start is not None and now - self._head_start > self._table.limits.head_seconds:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._table.limits.is_body_late(now - self._body_start, self._body_bytes):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _release_body(self) -> None:
        self._table.body_bytes -= self._held_bytes
        self._held_bytes = 0

    def _mark_idle_between_requests(self) -> None:
        if self._in_head and self.cycle is not None and self.cycle.response_complete and not self.pipeline:
            self._table.mark_idle(self)

    def _refuse(self, status: HTTPStatus) -> None:
        """Send *status* and close; only close if nothing was requested, or another response is being sent."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if self.pipeline or (cycle is not None and cycle.response_started):
            self.transport.abort()
            return
        self._table.mark_busy(self)
        if status != HTTPStatus.REQUEST_TIMEOUT or not self._in_head or self._head_began:
            refusal = refuse(status, self.client[0] if self.client else "")
            lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
            lines += [b"%s: %s" % header for header in refusal.headers]
            lines += [b"connection: close", b"", refusal.body]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A uvicorn WebSocket in the place of the HttpConnection whose request it answers."""

    def __init__(self, table: ConnectionTable, **options: Any) -> None:
        super().__init__(**options)
        self._table = table

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A proxy may have said for whom it connects.
        predecessor: Any = transport.get_protocol()
        self.client = predecessor.client

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        self.transport.abort()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:
            # The client is closing it: uvicorn's drain would end here, with all requests that run.
            self.transport.close()

    def handle_ping(self) -> None:
        if not self.writable.is_set():
            # The pongs that the client does not read would have no limit.
            self.transport.abort()
            return
        super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= _MAX_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def check_time(self, now: float) -> None:
        """Do nothing: uvicorn pings the client, and closes the connection if it does not answer."""
