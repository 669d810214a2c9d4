"""Work signal: wakes the background loops when there may be something for them to do.

Where one process alone changes the rows, a loop has nothing to do until a row is written or becomes due. So
an idle service reads a few indexes every ten seconds, instead of each loop its own twice a second.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

# Writes and due times that follow each other share a wakeup.
_SHORTEST_SECONDS = 0.25
# For what is overdue and cannot be done yet, and while the database does not answer.
_RETRY_SECONDS = 1.0
# Guards against what neither a write nor a due time announces, such as a work stream that was deleted.
_LONGEST_SECONDS = 10.0


class WorkSignal:
    """Sets the events of all loops after each write, when a row becomes due, and every ten seconds."""

    def __init__(self, queue: QueueStore, now: Clock) -> None:
        self._queue, self._now = queue, now
        self._wakeups: list[asyncio.Event] = []

    def subscribe(self, wakeup: asyncio.Event) -> None:
        """Set *wakeup* from now on whenever there may be something to do."""
        self._wakeups.append(wakeup)

    def wake(self) -> None:
        """Wake all loops now."""
        for wakeup in self._wakeups:
            wakeup.set()

    async def run(self) -> None:
        """Wake the loops until cancelled."""
        writes = 0
        while True:
            try:
                await self._queue.wait_for_write(writes, await self._seconds_until_due())
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                log.exception("the next due time cannot be read")
                await asyncio.sleep(_RETRY_SECONDS)
            # Counted before the loops look: a write after this wakes them again.
            writes = self._queue.count_writes()
            self.wake()
            await asyncio.sleep(_SHORTEST_SECONDS)

    async def _seconds_until_due(self) -> float:
        due = await self._queue.get_next_due_time()
        if due is None:
            return _LONGEST_SECONDS
        left = (due - self._now()) / timedelta(seconds=1)
        return min(left, _LONGEST_SECONDS) if left > 0 else _RETRY_SECONDS
