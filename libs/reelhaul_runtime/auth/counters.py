"""Counters of rate limits, in the memory of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from limits.storage import MemoryStorage

#: Seconds for which a counter is kept after its first use.
LIFETIME_SECONDS = 60


class Counters(Protocol):
    """Counts by key. A counter is deleted LIFETIME_SECONDS after its first use."""

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount*, which may be negative, to the counter of each key; return the sums. Never fails."""


class MemoryCounters:
    """Counters in the memory of this process."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount* to each counter, all at once for other calls."""
        return [self._storage.incr(key, LIFETIME_SECONDS, amount) for key in keys]
