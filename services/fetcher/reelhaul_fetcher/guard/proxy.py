"""The proxy itself: takes a pass's requests, and carries those that the rules allow."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reelhaul_fetcher.guard.buffered_socket import BufferedSocket
from reelhaul_fetcher.guard.connection import Connection
from reelhaul_fetcher.guard.dialer import Dialer, Upstream
from reelhaul_fetcher.guard.session import ProxySession


@dataclass(frozen=True)
class Limits:
    """What no client of the guard may exceed."""

    connections_per_pass: int = 64
    connections: int = 1024
    #: Seconds in which a connection must say whose it is.
    greeting_seconds: float = 10.0
    #: Seconds without a byte in either direction.
    idle_seconds: float = 60.0


class Proxy:
    """Listens on *listener*; knows the open passes, and *egresses*: by which proxy each is left, if any."""

    def __init__(
        self,
        listener: socket.socket,
        dialer: Dialer,
        limits: Limits,
        egresses: Mapping[str, Upstream | None],
    ) -> None:
        self._egresses = egresses
        self._listener = listener
        self._dialer = dialer
        self._limits = limits
        self._accounts: dict[str, ProxySession] = {}
        self._connections: dict[asyncio.Task[None], Connection] = {}

    @property
    def accounts(self) -> Mapping[str, ProxySession]:
        """The open passes by name."""
        return self._accounts

    def open(
        self,
        name: str,
        secret: str,
        byte_limit: int,
        seconds: float,
        used: Mapping[str, Any] | None = None,
        egress: str = "",
    ) -> None:
        """Let the pass *name* through, for *seconds* (0: until closed), going on from what it has *used*.

        All of it leaves by *egress*.

        Opening it again changes nothing.
        """
        if name in self._accounts:
            return
        upstream = self._egresses[egress]
        account = ProxySession(name, secret, byte_limit, self._limits.connections_per_pass, upstream)
        if used:
            account.restore_usage(used)
        if seconds:
            account.expiry = asyncio.get_running_loop().call_later(seconds, _expire, account)
        self._accounts[name] = account

    def close(self, name: str) -> dict[str, Any] | None:
        """Forget the pass *name* and cut its connections; what it used, None where it was not open."""
        account = self._accounts.pop(name, None)
        if account is None:
            return None
        if account.expiry:
            account.expiry.cancel()
        account.end("closed")
        return account.used()

    async def serve(self) -> None:
        """Accept and carry until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep())
            await self._accept(group.create_task)

    async def _accept(self, spawn: Callable[..., asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError:
                # Out of descriptors, or a client that was gone before it was accepted.
                await asyncio.sleep(0.05)
                continue
            if len(self._connections) >= self._limits.connections:
                sock.close()
                continue
            connection = Connection(BufferedSocket(sock), self._dialer, self._accounts.get)
            task = spawn(connection.serve())
            self._connections[task] = connection
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        if connection.account:
            connection.account.connections.discard(task)

    async def _sweep(self) -> None:
        """Cut connections on which nothing moves, and those that never said whose they are."""
        while True:
            await asyncio.sleep(min(1.0, self._limits.idle_seconds / 4))
            now = time.monotonic()
            for task, connection in list(self._connections.items()):
                silent = connection.account is None and now - connection.began > self._limits.greeting_seconds
                if silent or now - connection.moved > self._limits.idle_seconds:
                    task.cancel()


def _expire(account: ProxySession) -> None:
    account.refuse("", "time-budget")
    account.end("time-budget")
