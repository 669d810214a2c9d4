"""Ports: what the gateway needs to know of the suite."""

from __future__ import annotations

from typing import Protocol

from reelhaul.system.v1.system_service_pb2 import ServingStatus


class Checkup(Protocol):
    """Asks services how they are."""

    async def status(self, owner: str, health_name: str) -> ServingStatus.ValueType:
        """What *owner* says of *health_name*: SERVING, NOT_SERVING, or UNSPECIFIED if it knows none such.

        Raises Unavailable where it does not answer within two seconds.
        """


class Canary(Protocol):
    """Tries storage as a fetcher and a client would."""

    async def probe(self) -> None:
        """Write a small artifact, read it back, delete it. Raises ReelhaulError."""
