"""The worker: as many attempts at a time as there are slots, and none taken without a free one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.work_pb2 import WorkerNotice
from reelhaul_fetcher.model.disk_limits import choose_evictions
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.ports import Delivery, WorkQueue
from reelhaul_fetcher.service import outcomes
from reelhaul_fetcher.service.attempt import Attempt, AttemptContext
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.slots import Slot, SlotPool
from reelhaul_runtime.errors import ReelhaulError, Unavailable
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# What handing back takes: a kill, a folder, a call.
_HAND_BACK_SECONDS = 5.0
_NO_SPACE_DELAY = timedelta(seconds=5)
_WATCH_SECONDS = 1.0
# When to ask again, told to those for whom there is no place.
_AGAIN = timedelta(seconds=1)


class Worker:
    """Pulls work into slots until it is drained."""

    def __init__(self, bench: AttemptContext, slots: int, recordings: int = 0) -> None:
        self._bench, self._places = bench, SlotPool(slots, recordings)
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._turn = asyncio.Event()
        self._draining = asyncio.Event()
        self._drains: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> int:
        """Slots for work; none once it is drained."""
        return 0 if self._draining.is_set() else self._places.slots

    @property
    def busy(self) -> int:
        """Slots in use; what is recorded uses none."""
        return sum(not attempt.slot.recording for attempt in self._running)

    def describe_slot(self, pool: str, engine_version: str, free_bytes: int) -> lease_pb2.Slot:
        """What a claim says of this worker; the slot that it is for is counted as busy."""
        return lease_pb2.Slot(
            pool=pool,
            engine_version=engine_version,
            free_bytes=free_bytes,
            slot_count=self._places.slots,
            busy_count=self.busy,
        )

    async def run(self) -> None:
        """Take work until the worker is drained; tend what runs for ever.

        Being cancelled stops both; what runs goes on until ``drain``.
        """
        taking = asyncio.create_task(self._take())
        drained = asyncio.create_task(self._draining.wait())
        watching = [asyncio.create_task(self._follow_hints()), asyncio.create_task(self._watch_room())]
        try:
            await asyncio.wait({taking, drained}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                # It takes for ever: this raises what broke it.
                taking.result()
            await cancel_and_wait(taking)
            await asyncio.wait(watching)
        finally:
            for task in (taking, drained, *watching):
                await cancel_and_wait(task)

    async def check(self) -> None:
        """Return where it takes work. Raises Unavailable where it is drained."""
        if self._draining.is_set():
            raise Unavailable("fetcher", "drained: it takes no work until it is started anew")

    def reserve_slot(self) -> Slot:
        """A slot for what no queue brought. Raises OVERLOADED where there is none to be had."""
        if self._draining.is_set():
            raise _overloaded("the worker is drained and takes no new work: ask another one")
        if self._bench.disk.short:
            raise _overloaded("the worker is short of disk space: ask another one, or later")
        if (place := self._places.try_take()) is None:
            raise _overloaded(f"all {self._places.slots} slots are busy: ask another worker, or later")
        return place

    def start(self, attempt: Attempt) -> None:
        """Let *attempt*, which has its place, run to its end."""
        task = asyncio.create_task(attempt.run())
        self._running[attempt] = task
        task.add_done_callback(lambda ended: self._end(attempt, ended))
        self._changed()

    def start_drain(self, grace: float | None) -> None:
        """``drain``, whoever waits for it; from now on nothing is taken."""
        log.info("asked to drain", extra={"grace_seconds": grace})
        self._draining.set()
        task = asyncio.create_task(self.drain(grace))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    async def remaining(self) -> AsyncIterator[int]:
        """How many run, now and whenever that changes, until none does."""
        while True:
            number, turn = len(self._running), self._turn
            yield number
            if not number:
                return
            await turn.wait()

    async def drain(self, grace: float | None) -> None:
        """Take no more; give what runs *grace* seconds (None: any) to end, then hand it back to the queue.

        What is recorded would be lost: a recording ends with what it has.
        """
        self._draining.set()
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

    async def _take(self) -> None:
        while True:
            await self._places.wait_free()
            delivery = await self._next()
            place = None if self._draining.is_set() else self._places.try_take()
            if place is None:
                # Another took the slot while this one was waited for.
                await delivery.nak(timedelta())
            else:
                self.start(Attempt(self._bench, delivery, place))

    async def _next(self) -> Delivery:
        """The next item that there is disk space for."""
        while True:
            await self._bench.disk.wait_for_space()
            delivery = await self._bench.queue.next()
            # It may have come after hours, in which the disk was filled.
            try:
                short = await self._bench.disk.measure()
            except asyncio.CancelledError:
                # The worker leaves with it in hand.
                await delivery.nak(timedelta())
                raise
            if not short:
                return delivery
            await delivery.nak(_NO_SPACE_DELAY)

    def _end(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        del self._running[attempt]
        attempt.slot.release()
        outcome = attempt.committed
        if not task.cancelled() and (error := task.exception()):
            log.error("an attempt broke", extra={"job": attempt.job}, exc_info=error)
            outcome = outcome or outcomes.failed(error, attempt.job, self._bench.worker)
        if attempt.fetch is not None:
            self._bench.fetches.end(attempt.fetch, outcome)
        self._changed()

    def _changed(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def _watch_room(self) -> None:
        """See every second to it that what runs finds the space that it needs."""
        room = self._bench.disk
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            # Also while there is nothing to do: health tells of it.
            await room.measure()
            attempts = [attempt for attempt in self._running if attempt.epoch]
            # Who is leaving gives its space back first.
            if not attempts or any(attempt.stopping for attempt in attempts):
                continue
            uses = await asyncio.to_thread(
                lambda running: [attempt.disk_usage() for attempt in running], attempts
            )
            for leaving in choose_evictions(room.free_bytes, uses, room.thresholds):
                attempts[leaving.index].evict(own_fault=leaving.own_fault)

    async def _follow_hints(self) -> None:
        async for hint in self._bench.queue.stop_hints():
            for attempt in self._running:
                if attempt.job == hint.job and attempt.epoch == (hint.epoch or attempt.epoch):
                    attempt.renew_now()


def _overloaded(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.OVERLOADED, text, retry_delay=_AGAIN)


_LOOK_SECONDS = 1.0
_SAID_AGAIN_SECONDS = 10.0


class WorkerHeartbeat:
    """What there is to say of *worker*, which has so many *slots* for work, none once it is drained."""

    def __init__(
        self,
        worker: str,
        slots: Callable[[], int],
        room: DiskMonitor,
        egresses: Egresses,
        now: Callable[[], datetime],
    ) -> None:
        self._worker, self._slots = worker, slots
        self._room, self._egresses, self._now = room, egresses, now

    def notice(self) -> WorkerNotice:
        """How it stands."""
        made = WorkerNotice(worker=self._worker, slot_count=self._slots())
        if self._egresses.exhausted:
            made.shortage = WorkerNotice.EGRESS
            tomorrow = self._now().astimezone(UTC) + timedelta(days=1)
            made.until.FromDatetime(tomorrow.replace(hour=0, minute=0, second=0, microsecond=0))
        elif self._room.short:
            made.shortage = WorkerNotice.DISK
        return made

    async def run(self, queue: WorkQueue) -> None:
        """Say it at each change and from time to time, until cancelled; then that it leaves."""
        said, last = WorkerNotice(), 0.0
        try:
            while True:
                notice = self.notice()
                if notice != said or time.monotonic() - last >= _SAID_AGAIN_SECONDS:
                    said, last = notice, time.monotonic()
                    await queue.publish_worker(notice)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await queue.publish_worker(WorkerNotice(worker=self._worker))
