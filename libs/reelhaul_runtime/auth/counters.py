"""Counters of rate limits, in the memory of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

#: Seconds for which a counter is kept at least after its first use.
LIFETIME_SECONDS = 60


class Counters(Protocol):
    """Counters by key, each of which is deleted some time after LIFETIME_SECONDS."""

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount*, which may be negative, to the counter of each key; return the sums. Never fails."""


class MemoryCounters:
    """Counters in the memory of this process.

    The memory storage of the library ``limits`` starts a thread every ten milliseconds to delete old
    counters, which costs a call of a busy server several times as much as its authentication. Here a counter
    is in one of two generations, and the older one is deleted as a whole.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + LIFETIME_SECONDS
        self._counts: dict[str, int] = {}
        self._old_counts: dict[str, int] = {}

    async def add(self, keys: Sequence[str], amount: int) -> list[int]:
        """Add *amount* to each counter, all at once for other calls."""
        now = self._clock()
        if now >= self._end:
            self._old_counts, self._counts = self._counts, {}
            self._end = now + LIFETIME_SECONDS
        sums = []
        for key in keys:
            count = self._counts.get(key)
            if count is None:
                count = self._old_counts.pop(key, 0)
            self._counts[key] = count + amount
            sums.append(count + amount)
        return sums

    def __len__(self) -> int:
        return len(self._counts) + len(self._old_counts)
