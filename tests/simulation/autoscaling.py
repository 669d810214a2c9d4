"""Model of the autoscaler of fetchers: how fast their number follows a long queue.

The broker holds the running jobs and a short window of further ones. So an autoscaler that divides this lag
by the slots of a fetcher sees half as many fetchers missing as it has, however long the queue is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from reelhaul_jobs.model.fair_scheduling import window_size


@dataclass(frozen=True)
class Autoscaler:
    """As deploy/k8s/components/keda sets it."""

    slots_per_fetcher: int
    #: Lag per fetcher that it aims at.
    target: float
    min_fetchers: int
    #: Seconds between two decisions, and from a decision to the first claim of a new fetcher.
    decision_seconds: float
    start_seconds: float
    #: Growth per decision at most: by this factor, or by so many fetchers if that is more.
    max_factor: float = 2.0
    max_added: int = 4

    def next_count(self, fetchers: int) -> int:
        """Return the number of fetchers after the next decision, while the queue is long."""
        slots = fetchers * self.slots_per_fetcher
        lag = slots + window_size(slots, 0.0)
        wanted = math.ceil(lag / self.target)
        return max(
            self.min_fetchers, min(wanted, max(int(fetchers * self.max_factor), fetchers + self.max_added))
        )

    def grow(self, fetchers: int) -> Iterator[tuple[float, int]]:
        """Yield the seconds since the queue became long, and the number of fetchers from then on."""
        seconds = 0.0
        while True:
            yield seconds, fetchers
            seconds += self.decision_seconds + self.start_seconds
            fetchers = self.next_count(fetchers)

    def seconds_to(self, fetchers: int) -> float:
        """Return after how many seconds there are as many *fetchers*."""
        return next(seconds for seconds, count in self.grow(self.min_fetchers) if count >= fetchers)
