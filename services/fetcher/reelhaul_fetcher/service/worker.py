"""Worker: runs attempts in slots, pulls work when one is free, evicts, drains and sends heartbeats."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.work.v1 import lease_pb2
from reelhaul.work.v1.work_pb2 import WorkerNotice
from reelhaul_fetcher.model.disk_limits import DiskUsage, choose_evictions
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.ports import Delivery, WorkQueue
from reelhaul_fetcher.service import lease_keeper, outcomes
from reelhaul_fetcher.service.attempt import Attempt, AttemptContext, LeasedAttempt
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.slots import Slot, SlotPool
from reelhaul_runtime.errors import ReelhaulError, Unavailable
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# Enough to kill a fetch, remove its directory and finish.
_HAND_BACK_SECONDS = 5.0
_NO_SPACE_DELAY = timedelta(seconds=5)
_DISK_CHECK_SECONDS = 1.0
_IDLE_DISK_CHECK_SECONDS = 10.0
# Seconds between two sweeps of directories of dead workers and of kept media.
_SWEEP_SECONDS = 15.0
# The Retry-After of OVERLOADED.
_RETRY_DELAY = timedelta(seconds=1)

_HEARTBEAT_CHECK_SECONDS = 1.0
_HEARTBEAT_SECONDS = 10.0


class Worker:
    """Runs attempts: those of the queue's work items, and those that ``start`` is given."""

    def __init__(self, context: AttemptContext, slots: int, recordings: int = 0) -> None:
        self._context, self._slots = context, SlotPool(slots, recordings)
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._running_changed = asyncio.Event()
        self._draining = asyncio.Event()
        self._drain_tasks: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> int:
        """Slots for work; 0 once it is draining."""
        return 0 if self._draining.is_set() else self._slots.slots

    @property
    def busy(self) -> int:
        """Slots in use; recordings use none."""
        return sum(not attempt.slot.recording for attempt in self._running)

    def describe_slot(self, pool: str, engine_version: str, free_bytes: int) -> lease_pb2.Slot:
        """Return what a claim says of this worker; the slot that it is for counts as busy."""
        return lease_pb2.Slot(
            pool=pool,
            engine_version=engine_version,
            free_bytes=free_bytes,
            slot_count=self._slots.slots,
            busy_count=self.busy,
        )

    async def run(self) -> None:
        """Take work until drained, and look after what runs.

        Cancellation stops both, but not the running attempts: call ``drain``.
        """
        taking = asyncio.create_task(self._take_work())
        draining = asyncio.create_task(self._draining.wait())
        loops = (self._follow_hints(), self._watch_disk(), self._sweep())
        watching = [asyncio.create_task(loop) for loop in loops]
        try:
            await asyncio.wait({taking, draining}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                # It never returns, so this raises its error.
                taking.result()
            await cancel_and_wait(taking)
            await asyncio.wait(watching)
        finally:
            for task in (taking, draining, *watching):
                await cancel_and_wait(task)

    async def check(self) -> None:
        """Return if it takes work. Raises Unavailable if it is drained."""
        if self._draining.is_set():
            raise Unavailable("fetcher", "drained: it takes no work until it is restarted")

    def reserve_slot(self) -> Slot:
        """Take a slot for a direct fetch. Raises OVERLOADED if none is available."""
        if self._draining.is_set():
            raise _overloaded("the worker is drained and takes no new work: try another worker")
        if self._context.disk.short:
            raise _overloaded("the worker is short of disk space: try another worker, or later")
        if (slot := self._slots.try_take()) is None:
            raise _overloaded(f"all {self._slots.slots} slots are busy: try another worker, or later")
        return slot

    def start(self, attempt: Attempt, on_end: Callable[[], None] = lambda: None) -> None:
        """Run *attempt*, which holds its slot; call *on_end* once it has ended."""
        task = asyncio.create_task(attempt.run())
        self._running[attempt] = task
        task.add_done_callback(lambda ended: self._end(attempt, ended))
        task.add_done_callback(lambda _: on_end())
        self._notify_running_changed()

    def start_drain(self, grace: float | None) -> None:
        """Run ``drain`` in the background; no work is taken from now on."""
        log.info("asked to drain", extra={"grace_seconds": grace})
        self._draining.set()
        task = asyncio.create_task(self.drain(grace))
        self._drain_tasks.add(task)
        task.add_done_callback(self._drain_tasks.discard)

    async def remaining(self) -> AsyncIterator[int]:
        """Yield the number of running attempts, now and after each change, until it is 0."""
        while True:
            count, changed = len(self._running), self._running_changed
            yield count
            if not count:
                return
            await changed.wait()

    async def drain(self, grace: float | None) -> None:
        """Take no more work; after *grace* seconds (None: no limit) requeue what still runs.

        Recordings end at once with what they have: requeued, it would be lost.
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

    async def _take_work(self) -> None:
        while True:
            await self._slots.wait_free()
            delivery = await self._next_delivery()
            slot = None if self._draining.is_set() else self._slots.try_take()
            if slot is None:
                # A direct fetch took the slot while this waited for work.
                await delivery.nak(timedelta())
            else:
                self.start(LeasedAttempt(self._context, delivery, slot))

    async def _next_delivery(self) -> Delivery:
        """Wait for the next item that there is disk space for."""
        while True:
            await self._context.disk.wait_for_space()
            delivery = await self._context.queue.next()
            # That may have taken hours, in which the disk may have filled.
            try:
                short = await self._context.disk.measure()
            except asyncio.CancelledError:
                # The worker drains with the item in hand.
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
            log.error("unexpected failure of an attempt", extra={"job": attempt.job}, exc_info=error)
            outcome = outcome or outcomes.failed(error, attempt.job, self._context.worker)
        if attempt.fetch is not None:
            self._context.fetches.end(attempt.fetch, outcome)
        self._notify_running_changed()

    def _notify_running_changed(self) -> None:
        # A new event for later waiters, so that they do not miss the next change.
        changed, self._running_changed = self._running_changed, asyncio.Event()
        changed.set()

    async def _watch_disk(self) -> None:
        """Evict attempts so that the others find the disk space they need."""
        disk = self._context.disk
        while True:
            # Also while idle: health reports it.
            with suppress(TimeoutError):
                if not self._running:
                    async with asyncio.timeout(_IDLE_DISK_CHECK_SECONDS):
                        await self._running_changed.wait()
            await asyncio.sleep(_DISK_CHECK_SECONDS)
            await disk.measure()
            attempts = [attempt for attempt in self._running if attempt.epoch]
            # An attempt that is stopping frees its space first.
            if not attempts or any(attempt.stopping for attempt in attempts):
                continue
            usages = await asyncio.to_thread(_disk_usages, attempts)
            if choose_evictions(disk.free_bytes, usages, disk.thresholds):
                # Media kept for later attempts is deleted first.
                await disk.make_space(sum(usage.remaining for usage in usages) + disk.thresholds.reserve)
            for eviction in choose_evictions(disk.free_bytes, usages, disk.thresholds):
                attempts[eviction.index].evict(own_fault=eviction.own_fault)

    async def _sweep(self) -> None:
        """Delete directories of dead workers, and media kept for jobs that have ended, at regular intervals.

        Most ends are reported to a worker at once, but not while it or the broker is down.
        """
        scratch = self._context.downloader.scratch
        while True:
            try:
                await scratch.sweep()
                for job in await scratch.list_kept_jobs():
                    if await lease_keeper.has_ended(self._context.leases, job):
                        await scratch.discard(job)
            except OSError:
                log.exception("cannot sweep the work directories")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _follow_hints(self) -> None:
        async for hint in self._context.queue.stop_hints():
            if hint.job_ended:
                await self._context.downloader.scratch.discard(hint.job)
            for attempt in self._running:
                if attempt.job == hint.job and attempt.epoch == (hint.epoch or attempt.epoch):
                    attempt.renew_now()


def _disk_usages(attempts: Sequence[Attempt]) -> list[DiskUsage]:
    return [attempt.disk_usage() for attempt in attempts]


def _overloaded(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.OVERLOADED, text, retry_delay=_RETRY_DELAY)


class WorkerHeartbeat:
    """Publishes that *worker* is alive and why it takes no work, so that users learn why jobs wait.

    *slots* returns its slots for work, 0 once it is drained.
    """

    def __init__(
        self,
        worker: str,
        slots: Callable[[], int],
        disk: DiskMonitor,
        egresses: Egresses,
        now: Callable[[], datetime],
    ) -> None:
        self._worker, self._slots = worker, slots
        self._disk, self._egresses, self._now = disk, egresses, now

    def notice(self) -> WorkerNotice:
        """Return the worker's present state."""
        notice = WorkerNotice(worker=self._worker, slot_count=self._slots())
        if self._egresses.exhausted:
            notice.shortage = WorkerNotice.EGRESS
            tomorrow = self._now().astimezone(UTC) + timedelta(days=1)
            notice.until.FromDatetime(tomorrow.replace(hour=0, minute=0, second=0, microsecond=0))
        elif self._disk.short:
            notice.shortage = WorkerNotice.DISK
        return notice

    async def run(self, queue: WorkQueue) -> None:
        """Publish the state at each change and every ten seconds; when cancelled, that the worker leaves."""
        last, published_at = WorkerNotice(), 0.0
        try:
            while True:
                notice = self.notice()
                if notice != last or time.monotonic() - published_at >= _HEARTBEAT_SECONDS:
                    last, published_at = notice, time.monotonic()
                    await queue.publish_worker(notice)
                await asyncio.sleep(_HEARTBEAT_CHECK_SECONDS)
        finally:
            await queue.publish_worker(WorkerNotice(worker=self._worker))
