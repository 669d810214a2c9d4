"""The worker: as many attempts at a time as there are slots, and none taken without a free one."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from reelhaul.work.v1 import lease_pb2
from reelhaul_fetcher.model.room import evicted
from reelhaul_fetcher.ports import Delivery
from reelhaul_fetcher.service.attempt import Attempt, Bench
from reelhaul_fetcher.service.ending import ended
from reelhaul_fetcher.service.places import Place, Places

log = logging.getLogger(__name__)

# What handing back takes: a kill, a folder, a call.
_HAND_BACK_SECONDS = 5.0
_NO_SPACE_DELAY = timedelta(seconds=5)
_WATCH_SECONDS = 1.0


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
        watching = [asyncio.create_task(self._follow_hints()), asyncio.create_task(self._watch_room())]
        try:
            while True:
                place = await self._places.take()
                try:
                    delivery = await self._next()
                except BaseException:
                    place.leave()
                    raise
                self._begin(delivery, place)
        finally:
            for task in watching:
                await ended(task)

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

    async def _next(self) -> Delivery:
        """The next item that there is disk space for."""
        while True:
            await self._bench.room.enough()
            delivery = await self._bench.queue.next()
            # It may have come after hours, in which the disk was filled.
            if not await self._bench.room.look():
                return delivery
            await delivery.nak(_NO_SPACE_DELAY)

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

    async def _watch_room(self) -> None:
        """See every second to it that what runs finds the space that it needs."""
        room = self._bench.room
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            # Also while there is nothing to do: health tells of it.
            await room.look()
            attempts = [attempt for attempt in self._running if attempt.epoch]
            # Who is leaving gives its space back first.
            if not attempts or any(attempt.stopping for attempt in attempts):
                continue
            uses = await asyncio.to_thread(lambda running: [each.use() for each in running], attempts)
            for leaving in evicted(room.free_bytes, uses, room.marks):
                attempts[leaving.index].evict(own_fault=leaving.own_fault)

    async def _follow_hints(self) -> None:
        async for hint in self._bench.queue.hints():
            for attempt in self._running:
                if attempt.job == hint.job and attempt.epoch == (hint.epoch or attempt.epoch):
                    attempt.renew_now()
