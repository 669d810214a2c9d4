"""What one pass may use, what it has used, and what was refused to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

from reelhaul_fetcher.guard.dialer import Upstream
from reelhaul_fetcher.guard.errors import Refused, Unreachable


class ProxySession:
    """The guard's side of a pass. Its bytes count in both directions against one limit."""

    def __init__(
        self,
        name: str,
        secret: str,
        byte_limit: int,
        connection_limit: int,
        upstream: Upstream | None = None,
    ) -> None:
        self.name = name
        #: The proxy that all its requests go on to; None: straight to the sites.
        self.upstream = upstream
        self.ingress_bytes = 0
        self.egress_bytes = 0
        #: The latest refusals: (host, why). A hostile page must not fill our memory with them.
        self.refusals: deque[tuple[str, str]] = deque(maxlen=64)
        self.refusal_count = 0
        self.connections: set[asyncio.Task[None]] = set()
        self.expiry: asyncio.TimerHandle | None = None
        self._secret = secret
        self._byte_limit = byte_limit
        self._connection_limit = connection_limit
        self._closed_for = ""

    def verify_secret(self, secret: str) -> bool:
        """Whether *secret* is this pass's, in a time that tells nothing about it."""
        return compare_digest(secret.encode(), self._secret.encode())

    def enter(self, connection: asyncio.Task[None]) -> None:
        """Count *connection* in.

        Raises ``Refused`` when nothing is left to use, ``Unreachable`` when there are too many just now.
        """
        if self._closed_for:
            raise Refused(self._closed_for)
        if connection not in self.connections and len(self.connections) >= self._connection_limit:
            self.refuse("", "connections")
            raise Unreachable("connections", 503)
        self.connections.add(connection)

    def received(self, count: int) -> None:
        """Count bytes from outside. Raises ``Refused`` beyond the limit; they must not be passed on then."""
        self.ingress_bytes += count
        self._within_limit()

    def sent(self, count: int) -> None:
        """Count bytes about to go out. Raises ``Refused`` beyond the limit."""
        self.egress_bytes += count
        self._within_limit()

    def refuse(self, host: str, why: str) -> None:
        """Remember that *host* was refused."""
        self.refusals.append((host[:255], why))
        self.refusal_count += 1

    def end(self, why: str) -> None:
        """Let nothing more through, and cut what is on its way."""
        self._closed_for = self._closed_for or why
        for connection in self.connections:
            connection.cancel()

    @property
    def marks(self) -> tuple[int, int, int]:
        """What changes whenever the usage does."""
        return self.ingress_bytes, self.egress_bytes, self.refusal_count

    def used(self) -> dict[str, Any]:
        """The usage so far, as JSON has it."""
        return {
            "ingress_bytes": self.ingress_bytes,
            "egress_bytes": self.egress_bytes,
            "refusals": list(self.refusals),
            "refusal_count": self.refusal_count,
        }

    def restore_usage(self, used: Mapping[str, Any]) -> None:
        """Go on from what an earlier guard counted for this pass."""
        self.ingress_bytes = used["ingress_bytes"]
        self.egress_bytes = used["egress_bytes"]
        self.refusals.extend((host, why) for host, why in used["refusals"])
        self.refusal_count = used["refusal_count"]

    def _within_limit(self) -> None:
        if self._byte_limit and self.ingress_bytes + self.egress_bytes > self._byte_limit:
            if self._closed_for != "byte-budget":
                self._closed_for = "byte-budget"
                self.refuse("", "byte-budget")
            raise Refused("byte-budget")


#: Compared with where no pass has the name that is shown, so that names cannot be found out by time.
NULL_SESSION = ProxySession("", "-" * 43, 0, 0)
