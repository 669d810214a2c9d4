"""The guard's proxy: accepts connections, keeps the open sessions, and cuts idle connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reelhaul_fetcher.guard.buffered_socket import BufferedSocket
from reelhaul_fetcher.guard.connection import Connection
from reelhaul_fetcher.guard.dialer import Dialer, Upstream
from reelhaul_fetcher.guard.session import ProxySession
from reelhaul_fetcher.model.proxy_usage import Usage


@dataclass(frozen=True)
class Limits:
    """Limits for every client of the guard."""

    connections_per_session: int = 64
    connections: int = 1024
    #: Seconds within which a connection must authenticate.
    greeting_seconds: float = 10.0
    #: Seconds without a byte in either direction after which a connection is cut.
    idle_seconds: float = 60.0


class Proxy:
    """A forward proxy on *listener*. *egresses* maps each egress to its upstream proxy; None: direct."""

    def __init__(
        self,
        listener: socket.socket,
        dialer: Dialer,
        limits: Limits,
        egresses: Mapping[str, Upstream | None],
    ) -> None:
        self._listener = listener
        self._dialer = dialer
        self._limits = limits
        self._egresses = egresses
        self._sessions: dict[str, ProxySession] = {}
        self._has_sessions = asyncio.Event()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        # Set while there are connections, as the last check for idle ones found.
        self._has_connections = asyncio.Event()

    @property
    def sessions(self) -> Mapping[str, ProxySession]:
        """The open sessions by name."""
        return self._sessions

    async def wait_for_session(self) -> None:
        """Return when a session is open."""
        await self._has_sessions.wait()

    def open_session(
        self,
        name: str,
        secret: str,
        byte_limit: int = 0,
        seconds: float = 0,
        egress: str = "",
        usage: Usage | None = None,
    ) -> None:
        """Open the session *name*; its requests leave by *egress*. Opening it again changes nothing.

        It ends after *seconds* (0: when it is closed). *usage* is what an earlier guard process counted.
        """
        if name in self._sessions:
            return
        session = ProxySession(
            name, secret, byte_limit, self._limits.connections_per_session, self._egresses[egress], usage
        )
        if seconds:
            session.expiry = asyncio.get_running_loop().call_later(seconds, _expire, session)
        self._sessions[name] = session
        self._has_sessions.set()

    def close_session(self, name: str) -> Usage | None:
        """Close the session *name* and cut its connections; return its usage, None if it is not open."""
        session = self._sessions.pop(name, None)
        if session is None:
            return None
        if not self._sessions:
            self._has_sessions.clear()
        if session.expiry:
            session.expiry.cancel()
        session.end("closed")
        return session.usage

    async def serve(self) -> None:
        """Serve connections until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cut_idle_connections())
            await self._accept(group.create_task)

    async def _accept(self, create_task: Callable[..., asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError:
                # No free descriptor, or the client left before it was accepted.
                await asyncio.sleep(0.05)
                continue
            if len(self._connections) >= self._limits.connections:
                sock.close()
                continue
            connection = Connection(BufferedSocket(sock), self._dialer, self._sessions.get)
            task = create_task(connection.serve())
            self._connections[task] = connection
            self._has_connections.set()
            task.add_done_callback(self._remove)

    def _remove(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        if connection.session:
            connection.session.connections.discard(task)

    async def _cut_idle_connections(self) -> None:
        """Cut connections that are idle for too long, and those that do not authenticate in time."""
        while True:
            await self._has_connections.wait()
            await asyncio.sleep(min(1.0, self._limits.idle_seconds / 4))
            if not self._connections:
                self._has_connections.clear()
            now = time.monotonic()
            for task, connection in list(self._connections.items()):
                unauthenticated = (
                    connection.session is None and now - connection.opened_at > self._limits.greeting_seconds
                )
                if unauthenticated or now - connection.last_activity > self._limits.idle_seconds:
                    task.cancel()


def _expire(session: ProxySession) -> None:
    session.usage.add_refusal("", "time-budget")
    session.end("time-budget")
