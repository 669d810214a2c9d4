"""The forgetter: drops what was kept for a time only."""

from __future__ import annotations

from datetime import timedelta

from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.watch.messages import EVENTS_KEPT

#: How long a request_id answers as the first time.
REQUESTS_KEPT = timedelta(hours=24)

#: A site that nobody asked for so long is a stranger again.
GATES_KEPT = timedelta(days=1)

# A resume token is refused by its age a little before its events go.
_MARGIN = timedelta(hours=1)


class RetentionPurger:
    """Drops old events, old request ids and the gates of sites that nobody asks."""

    def __init__(self, queue: QueueStore, now: Clock) -> None:
        self._queue = queue
        self._now = now

    async def step(self) -> bool:
        """Drop what is old. There is never more to do at once."""
        now = self._now()
        await self._queue.delete_old_records(now - EVENTS_KEPT - _MARGIN, now - REQUESTS_KEPT)
        await self._queue.delete_idle_rate_limits(now - GATES_KEPT)
        return False
