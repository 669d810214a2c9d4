"""What one session of the guard's proxy used: the one type from the guard's process to the attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_REFUSALS_KEPT = 64
_HOST_CHARACTERS_KEPT = 255


class Refusal(NamedTuple):
    """A request that the guard refused."""

    #: Empty if a budget and not the host was the cause.
    host: str
    #: One word: loopback, private, metadata, port, byte-budget …; docs/security.md lists them.
    reason: str


@dataclass(slots=True)
class Usage:
    """Traffic and refusals of one session. The guard counts in it; everyone else reads a copy."""

    #: Received from outside and sent out, headers included.
    ingress_bytes: int = 0
    egress_bytes: int = 0
    #: The latest 64: a hostile page must not fill the guard's memory with them.
    refusals: tuple[Refusal, ...] = ()
    #: All refusals, also those that are no longer kept.
    refusal_count: int = 0
    #: Open connections at that moment: no traffic.
    connections: int = field(default=0, compare=False)

    @property
    def total_bytes(self) -> int:
        """Bytes in both directions."""
        return self.ingress_bytes + self.egress_bytes

    def add_refusal(self, host: str, reason: str) -> None:
        """Count a refusal and keep it among the latest."""
        latest = self.refusals[-(_REFUSALS_KEPT - 1) :]
        self.refusals = (*latest, Refusal(host[:_HOST_CHARACTERS_KEPT], reason))
        self.refusal_count += 1

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Usage:
        """Return the usage whose ``asdict`` was sent as JSON."""
        refusals = tuple(Refusal(host, reason) for host, reason in fields["refusals"])
        return cls(
            fields["ingress_bytes"],
            fields["egress_bytes"],
            refusals=refusals,
            refusal_count=fields["refusal_count"],
            connections=fields["connections"],
        )
