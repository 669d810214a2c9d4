"""The dispatcher: keeps the broker's window full with the fairest choice of ready jobs."""

from __future__ import annotations

from datetime import timedelta

from reelhaul_jobs.model import queueing
from reelhaul_jobs.ports import Clock, JobBus, QueueStore
from reelhaul_runtime import failpoints


def look_again(lease: timedelta) -> timedelta:
    """After how long a published item that nobody claimed is looked after again.

    By then JetStream has put an item whose worker died to another one.
    """
    return 2 * lease


class Dispatcher:
    """Puts ready jobs to the workers. The row is the outbox: publishing again harms nothing."""

    def __init__(self, queue: QueueStore, bus: JobBus, now: Clock, lease: timedelta) -> None:
        self._queue = queue
        self._bus = bus
        self._now = now
        self._look_again = look_again(lease)
        self._window = queueing.window([])
        # Where there are more tenants than one look takes in, they take turns.
        self._after_tenant = ""

    async def step(self) -> bool:
        """Publish what fits. Whether there may be more to do at once."""
        now = self._now()
        backlog = await self._queue.backlog(self._window, self._after_tenant, now)
        self._window = queueing.window([backlog.slots])
        picks = queueing.fair_picks(backlog.ready, backlog.in_hand, self._window - backlog.published)
        if not picks:
            return False
        self._after_tenant = next(reversed(list(backlog.ready)))
        failpoints.reached("jobs.dispatch.before_publish")
        stored = await self._bus.publish(picks, now)
        failpoints.reached("jobs.dispatch.after_publish")
        # After the PubAck: a crash in between publishes it again, as the same message.
        await self._queue.published(stored, now + self._look_again)
        return len(stored) == len(picks)
