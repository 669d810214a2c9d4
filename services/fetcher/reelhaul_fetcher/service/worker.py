"""The worker: as many attempts at a time as there are slots, and none taken without a free one."""

from __future__ import annotations

import asyncio
import logging

from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.ports import Delivery
from reelhaul_fetcher.service.attempt import Attempt, Bench
from reelhaul_fetcher.service.ending import ended
from reelhaul_fetcher.service.places import Place, Places

log = logging.getLogger(__name__)

# What handing back takes: a kill, a folder, a call.
_HAND_BACK_SECONDS = 5.0


class Worker:
    """Pulls work into slots until it is drained."""

    def __init__(self, bench: Bench, slots: int, recordings: int = 0) -> None:
        self._bench, self._places = bench, Places(slots, recordings)
        self._running: dict[Attempt, asyncio.Task[None]] = {}

    @property
    def busy(self) -> int:
        """Slots in use; what is recorded uses none."""
        return sum(not attempt.place.recording for attempt in self._running)

    def offer(self, pool: str, engine_version: str, free_bytes: int) -> lease_pb2.Slot:
        """What a claim says of this worker; the slot that it is for is counted as busy."""
        return lease_pb2.Slot(
            pool=pool,
            engine_version=engine_version,
            free_bytes=free_bytes,
            slot_count=self._places.slots,
            busy_count=self.busy,
        )

    async def run(self) -> None:
        """Take work for ever. Being cancelled stops taking it; what runs goes on until ``drain``."""
        hints = asyncio.create_task(self._follow_hints())
        try:
            while True:
                place = await self._places.take()
                try:
                    delivery = await self._bench.queue.next()
                except BaseException:
                    place.leave()
                    raise
                self._begin(delivery, place)
        finally:
            await ended(hints)

    async def drain(self, grace: float) -> None:
        """Give what runs *grace* seconds to end, then hand it back to the queue.

        What is recorded would be lost: a recording ends with what it has.
        """
        for attempt in self._running:
            attempt.end_recording()
        if self._running:
            log.info("draining", extra={"running": len(self._running)})
            await asyncio.wait(self._running.values(), timeout=grace)
        for attempt in self._running:
            attempt.hand_back()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_HAND_BACK_SECONDS)
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())

    def _begin(self, delivery: Delivery, place: Place) -> None:
        attempt = Attempt(self._bench, delivery, place)
        task = asyncio.create_task(attempt.run())
        self._running[attempt] = task
        task.add_done_callback(lambda ended: self._end(attempt, place, ended))

    def _end(self, attempt: Attempt, place: Place, task: asyncio.Task[None]) -> None:
        del self._running[attempt]
        place.leave()
        if not task.cancelled() and (error := task.exception()):
            log.error("an attempt broke", extra={"job": attempt.job}, exc_info=error)

    async def _follow_hints(self) -> None:
        async for hint in self._bench.queue.hints():
            for attempt in self._running:
                if attempt.job == hint.job and attempt.epoch == (hint.epoch or attempt.epoch):
                    attempt.renew_now()
