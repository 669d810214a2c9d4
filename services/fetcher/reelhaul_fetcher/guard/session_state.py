"""Passes as the fetcher knows them: a way out for one fetch, and what it has used."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """The way out for one fetch."""

    #: ``http://<name>:<secret>@host:port``
    proxy_url: str = field(repr=False)
    host: str
    port: int


class Refusal(NamedTuple):
    """Something that the guard did not carry."""

    #: Empty where it was no host but a budget.
    host: str
    #: One word: loopback, private, metadata, port, byte-budget …; docs/security.md lists them.
    why: str


@dataclass(frozen=True)
class Usage:
    """What a pass has used so far."""

    ingress_bytes: int = 0
    egress_bytes: int = 0
    #: The latest 64.
    refusals: tuple[Refusal, ...] = ()
    refusal_count: int = 0


class SessionState:
    """The fetcher's memory of an open pass: enough to open it again in the next guard."""

    def __init__(self, name: str, byte_limit: int, seconds: float, egress: str = "") -> None:
        self.name = name
        self._egress = egress
        self.secret = secrets.token_urlsafe(32)
        self.usage = Usage()
        self._byte_limit = byte_limit
        self._deadline = _now() + seconds if seconds else 0.0

    def opening(self) -> dict[str, Any]:
        """The order that opens it, with what is left of its time and already used of its bytes."""
        return {
            "name": self.name,
            "secret": self.secret,
            "byte_limit": self._byte_limit,
            "seconds": max(self._deadline - _now(), 0.001) if self._deadline else 0,
            "used": asdict(self.usage),
            "egress": self._egress,
        }

    def note(self, used: Mapping[str, Any]) -> None:
        """Take over what the guard counted, and log the refusals that are new."""
        refusals = tuple(Refusal(host, why) for host, why in used["refusals"])
        fresh = min(used["refusal_count"] - self.usage.refusal_count, len(refusals))
        for host, why in refusals[len(refusals) - fresh :]:
            log.warning("the guard refused", extra={"pass": self.name, "host": host, "why": why})
        self.usage = Usage(used["ingress_bytes"], used["egress_bytes"], refusals, used["refusal_count"])


def _now() -> float:
    return asyncio.get_running_loop().time()
