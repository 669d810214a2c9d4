"""The roll: which workers were heard of lately. Hearsay: it explains waits and decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from reelhaul_jobs.model.wait_reason import WorkerStatus

# They speak every ten seconds: two may be lost.
_GONE_SECONDS = 30.0
_MOST = 10_000


class WorkerRegistry:
    """Workers by what they said last, by a *clock* that only grows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[WorkerStatus, float]] = {}

    def heard(self, presence: WorkerStatus) -> None:
        """A worker said so; without slots it leaves."""
        self._heard.pop(presence.worker, None)
        if presence.slots > 0:
            self._heard[presence.worker] = presence, self._clock()
        while len(self._heard) > _MOST:
            del self._heard[next(iter(self._heard))]

    def present(self) -> Sequence[WorkerStatus]:
        """Those who live, as far as is known."""
        since = self._clock() - _GONE_SECONDS
        self._heard = {name: known for name, known in self._heard.items() if known[1] > since}
        return [presence for presence, _ in self._heard.values()]
