"""Proxy session in the guard's process: its secret, its budgets, its usage and its connections."""

from __future__ import annotations

import asyncio
from hmac import compare_digest

from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.guard.errors import Refused, Unreachable
from reelhaul_fetcher.guard.verdicts import Verdict
from reelhaul_fetcher.model.proxy_usage import Usage


class ProxySession:
    """What one fetch may send through the proxy. One byte limit covers both directions; 0 means no limit."""

    def __init__(
        self,
        name: str,
        secret: str,
        byte_limit: int,
        connection_limit: int,
        upstream: Upstream | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.name = name
        #: The proxy that receives all requests of the session; None: the sites are contacted directly.
        self.upstream = upstream
        self.usage = usage or Usage()
        self.connections: set[asyncio.Task[None]] = set()
        self.expiry: asyncio.TimerHandle | None = None
        self._secret = secret
        self._byte_limit = byte_limit
        self._connection_limit = connection_limit
        self._end_reason = ""

    def verify_secret(self, secret: str) -> bool:
        """Compare *secret* with the session's in constant time."""
        return compare_digest(secret.encode(), self._secret.encode())

    def sign(self, verdict: Verdict) -> str:
        """Return *verdict* as text that the client of this session can verify."""
        return verdict.sign(self._secret)

    def add_connection(self, connection: asyncio.Task[None]) -> None:
        """Count *connection* as one of the session's; adding it again changes nothing.

        Raises ``Refused`` once the session has ended, ``Unreachable`` (503) at the connection limit.
        """
        if self._end_reason:
            raise Refused(self._end_reason)
        if connection not in self.connections and len(self.connections) >= self._connection_limit:
            self.usage.add_refusal("", "connections")
            raise Unreachable("connections", 503)
        self.connections.add(connection)

    def received(self, count: int) -> None:
        """Count bytes from outside. Raises ``Refused`` above the byte limit: do not forward them then."""
        self.usage.ingress_bytes += count
        self._check_byte_limit()

    def sent(self, count: int) -> None:
        """Count bytes that are about to be sent. Raises ``Refused`` above the byte limit."""
        self.usage.egress_bytes += count
        self._check_byte_limit()

    def end(self, reason: str) -> None:
        """Refuse everything from now on, with *reason*, and cut the open connections."""
        self._end_reason = self._end_reason or reason
        for connection in self.connections:
            connection.cancel()

    def _check_byte_limit(self) -> None:
        if self._byte_limit and self.usage.total_bytes > self._byte_limit:
            if self._end_reason != "byte-budget":
                self._end_reason = "byte-budget"
                self.usage.add_refusal("", "byte-budget")
            raise Refused("byte-budget")


#: Compared with if no session has the name, so that response times do not reveal which names exist.
NULL_SESSION = ProxySession("", "-" * 43, 0, 0)
