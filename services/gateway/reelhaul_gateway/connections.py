"""Connections: their number in total and of one peer, and the limits that HTTP/1.1 and HTTP/2 share."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from reelhaul_gateway import metrics

log = logging.getLogger(__name__)

# Of one request. As much as nginx and Node accept, or more.
MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
# Bodies must not be slower than the minimum rate, after the time that TCP needs to start.
_RATE_GRACE_SECONDS = 5.0
_SWEEP_SECONDS = 0.5
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
        # Set while there are connections, as the last sweep found.
        self._has_connections = asyncio.Event()
        self._last_warning = float("-inf")
        #: Bytes of the bodies of requests that are not answered yet.
        self.body_bytes = 0

    def add(self, connection: Connection, host: str) -> bool:
        """Add an idle connection from *host*; return whether it is within the limits."""
        self._has_connections.set()
        name = _peer_name(host)
        peer = self._peers.get(name) or _Peer(name)
        if self._has_room(peer):
            self._peers[name] = peer
            peer.connections += 1
            self._open[connection] = peer
            metrics.CONNECTIONS.inc()
            self.mark_idle(connection)
            return True
        is_peers = peer.connections >= self.limits.per_peer
        metrics.REFUSED_CONNECTIONS.labels("per_peer" if is_peers else "total").inc()
        self._warn(name)
        if len(self._reserve) >= _RESERVED_CONNECTIONS:
            self._reserve.popleft().abort()
            metrics.CONNECTIONS.dec()
        self._reserve.append(connection)
        metrics.CONNECTIONS.inc()
        return False

    def remove(self, connection: Connection) -> None:
        """Remove a connection; not an error if it is not in the table."""
        self._idle.pop(connection, None)
        if (peer := self._open.pop(connection, None)) is not None:
            metrics.CONNECTIONS.dec()
            peer.idle.pop(connection, None)
            peer.connections -= 1
            if not peer.connections:
                del self._peers[peer.name]
        elif connection in self._reserve:
            metrics.CONNECTIONS.dec()
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
            await self._has_connections.wait()
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in [*self._open, *self._reserve]:
                connection.check_time(now)
            if not self._open and not self._reserve:
                self._has_connections.clear()

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
    """A connection of *client*, an address and a port, whose TLS handshake runs in the current task.

    Without TLS it ends at once. *create_protocol* returns the protocol that succeeds it, by the name that
    ALPN has selected.
    """

    def __init__(
        self, table: ConnectionTable, client: tuple[str, int], create_protocol: CreateProtocol
    ) -> None:
        self._create_protocol = create_protocol
        #: Whom the connection is for, as a trusted proxy says.
        self.client = client
        self._task = asyncio.current_task()
        #: The time of the event loop at which the connection was accepted.
        self.start = asyncio.get_running_loop().time()
        self.within_limits = table.add(self, client[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        successor: Any = self._create_protocol(self, tls and tls.selected_alpn_protocol())
        cast("asyncio.Transport", transport).set_protocol(successor)
        successor.connection_made(transport)

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def check_time(self, now: float) -> None:
        """Do nothing: the event loop limits the time of a handshake."""
