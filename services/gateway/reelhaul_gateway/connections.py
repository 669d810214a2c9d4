"""Connections: limits on their number, on the heads of requests, and on the time that clients take to send.

uvicorn limits only the pause between two requests. The protocol classes here add what it lacks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

log = logging.getLogger(__name__)

# As much as nginx and Node accept, or more. The parser has no limits of its own.
MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
# The parser gets no more at once, so that an unfinished head exceeds the limit by no more.
_MAX_READ_BYTES = 16 << 10
# Chunk sizes, extensions and trailers: with one byte per chunk they are six times the body.
_MAX_FRAMING_FACTOR = 8
# Requests that wait for the response to an earlier one on their connection. Browsers send none.
_MAX_PIPELINED = 16
# Fragments of one WebSocket message. No client needs to send any: empty ones would have no limit of bytes.
_MAX_FRAGMENTS = 64
# Bodies must not be slower than the minimum rate, after the time that TCP needs to start.
_RATE_GRACE_SECONDS = 5.0
_SWEEP_SECONDS = 0.5
# https://www.rfc-editor.org/rfc/rfc9113#section-3.4
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Connections beyond the limits, which are answered 503 and serve only health checks.
_RESERVED_CONNECTIONS = 32
_MIN_SECONDS_BETWEEN_WARNINGS = 60.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections, and of the seconds that a client may take."""

    total: int
    per_peer: int
    #: From the connection, or the first byte of a later request, to the end of the head.
    head_seconds: float
    #: From the end of the head to the end of the body.
    body_seconds: float
    #: Bytes per second that a body must reach on average; 0: none.
    min_body_rate: int
    #: Bytes of all bodies that are held at a time.
    total_body_bytes: int

    def is_body_late(self, seconds: float, size: int) -> bool:
        """Return whether a body, of which *size* bytes arrived in *seconds*, takes too long."""
        expected = (seconds - _RATE_GRACE_SECONDS) * self.min_body_rate
        return seconds > self.body_seconds or size < expected


class Connection(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Close the connection at once."""

    def check_time(self, now: float) -> None:
        """Close the connection if its client takes too long at *now*, the time of the event loop."""


@dataclass(eq=False, slots=True)
class _Peer:
    name: str
    connections: int = 0
    #: Those that serve no request, the longest idle first. An ordered set.
    idle: dict[Connection, None] = field(default_factory=dict)


class ConnectionTable:
    """The open connections.

    An idle connection, whose next request has not arrived completely, is closed to make room for a new
    one. If all are busy, new ones serve only health checks and are otherwise answered 503 by
    *overloaded*, an ASGI application.
    """

    def __init__(self, limits: ConnectionLimits, overloaded: Any) -> None:
        self.limits, self.overloaded = limits, overloaded
        self._peers: dict[str, _Peer] = {}
        self._open: dict[Connection, _Peer] = {}
        self._idle: dict[Connection, None] = {}
        self._reserve: deque[Connection] = deque()
        self._last_warning = float("-inf")
        #: Bytes of the bodies of requests that are not answered yet.
        self.body_bytes = 0

    def add(self, connection: Connection, host: str) -> bool:
        """Add an idle connection from *host*; return whether it is within the limits."""
        name = _peer_name(host)
        peer = self._peers.get(name) or _Peer(name)
        if self._has_room(peer):
            self._peers[name] = peer
            peer.connections += 1
            self._open[connection] = peer
            self.mark_idle(connection)
            return True
        self._warn(name)
        if len(self._reserve) >= _RESERVED_CONNECTIONS:
            self._reserve.popleft().abort()
        self._reserve.append(connection)
        return False

    def remove(self, connection: Connection) -> None:
        """Remove a connection; not an error if it is not in the table."""
        self._idle.pop(connection, None)
        if (peer := self._open.pop(connection, None)) is not None:
            peer.idle.pop(connection, None)
            peer.connections -= 1
            if not peer.connections:
                del self._peers[peer.name]
        elif connection in self._reserve:
            self._reserve.remove(connection)

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Let *successor* take the place of *connection*, idle or busy."""
        if (peer := self._open.get(connection)) is not None:
            is_idle = connection in self._idle
            self.mark_busy(connection)
            del self._open[connection]
            self._open[successor] = peer
            if is_idle:
                self.mark_idle(successor)
        elif connection in self._reserve:
            self._reserve[self._reserve.index(connection)] = successor

    def mark_idle(self, connection: Connection) -> None:
        """Record that *connection* waits for a request."""
        if (peer := self._open.get(connection)) is not None:
            self._idle[connection] = peer.idle[connection] = None

    def mark_busy(self, connection: Connection) -> None:
        """Record that *connection* serves a request."""
        if (peer := self._open.get(connection)) is not None:
            self._idle.pop(connection, None)
            peer.idle.pop(connection, None)

    async def sweep(self) -> None:
        """Close connections whose clients take too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in [*self._open, *self._reserve]:
                connection.check_time(now)

    def _has_room(self, peer: _Peer) -> bool:
        """Return whether a connection of *peer* fits, once idle ones are closed if needed."""
        if peer.connections >= self.limits.per_peer and not self._close_longest_idle(peer.idle):
            return False
        return len(self._open) < self.limits.total or self._close_longest_idle(self._idle)

    def _close_longest_idle(self, idle: dict[Connection, None]) -> bool:
        connection = next(iter(idle), None)
        if connection is None:
            return False
        self.remove(connection)
        connection.abort()
        return True

    def _warn(self, peer: str) -> None:
        if time.monotonic() - self._last_warning >= _MIN_SECONDS_BETWEEN_WARNINGS:
            self._last_warning = time.monotonic()
            log.warning(
                "too many connections; new ones are answered 503",
                extra={"peer": peer, "connections": len(self._open)},
            )


def _peer_name(host: str) -> str:
    """Return the peer that *host* belongs to: an IPv4 address, or the /64 network of an IPv6 address."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.exploded[:19]


class CreateProtocol(Protocol):
    """Returns the protocol of a connection after *handshake*."""

    def __call__(self, handshake: Handshake, application_protocol: str | None) -> asyncio.Protocol:
        """Return the protocol for the name that ALPN has selected; None: the client named none."""


class Handshake(asyncio.Protocol):
    """A connection from *host* whose TLS handshake runs in the current task.

    *create_protocol* returns the protocol that succeeds it, by the name that ALPN has selected.
    """

    def __init__(self, table: ConnectionTable, host: str, create_protocol: CreateProtocol) -> None:
        self._create_protocol = create_protocol
        self._task = asyncio.current_task()
        #: The time of the event loop at which the connection was accepted.
        self.start = asyncio.get_running_loop().time()
        self.within_limits = table.add(self, host)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        successor: Any = self._create_protocol(self, chosen)
        cast("asyncio.Transport", transport).set_protocol(successor)
        successor.connection_made(transport)

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def check_time(self, now: float) -> None:
        """Do nothing: the event loop limits the time of a handshake."""


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
            body = status.phrase.encode()
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A uvicorn WebSocket in the place of the HttpConnection whose request it answers."""

    def __init__(self, table: ConnectionTable, **options: Any) -> None:
        super().__init__(**options)
        self._table = table

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        self.transport.abort()

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
