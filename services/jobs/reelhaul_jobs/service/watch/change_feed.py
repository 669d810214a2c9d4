"""The change feed: reads every change of every job once for all watchers of many jobs in this process."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.states import State
from reelhaul_jobs.model.watch import JobChange
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.state_events import StateEvent, StateEventStore
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.watch import limits
from reelhaul_jobs.service.watch.conflating_queue import ConflatingQueue
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

#: Longest time between the timestamp of a state event and its commit, clock skew included.
COMMIT_DELAY = timedelta(seconds=10)

#: Rows and events read by one query.
PAGE_SIZE = 500

# Changes that arrive within this time are read together.
_BATCH_SECONDS = 0.02
_RETRY_SECONDS = 1.0
_MAX_CHANGED = 10_000
_MAX_REVISIONS = 20_000
_OFFERS_PER_TURN = 1_000


class ChangeFeed:
    """Reads while anybody watches: at once what the bus reports, and every few seconds all events."""

    def __init__(self, store: StateEventStore, views: JobViews, hub: EventHub, now: Clock) -> None:
        self._store, self._views, self._hub, self._now = store, views, hub, now
        self._queues: set[ConflatingQueue] = set()
        self._owners: dict[Owner, int] = defaultdict(int)
        # Ids of jobs that the bus reported as changed, in order.
        self._changed: dict[str, None] = {}
        self._wakeup = asyncio.Event()
        # Revisions offered by job id, so that nothing is sent twice without need.
        self._revisions: OrderedDict[str, int] = OrderedDict()
        self._starting: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        #: Everything that changed before this time has been offered.
        self.position = now()

    @asynccontextmanager
    async def queue(
        self, owner: Owner, matches: Callable[[JobChange], bool]
    ) -> AsyncIterator[ConflatingQueue]:
        """Yield a queue of the changes from now on in the jobs of *owner* (None: everyone's)."""
        queue = ConflatingQueue(matches)
        self._queues.add(queue)
        self._owners[owner] += 1
        try:
            await self._ensure_started()
            yield queue
        finally:
            self._queues.discard(queue)
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
            if not self._queues:
                await self._stop()

    def on_row_change(self, job_id: str, tenant: str) -> None:
        """Schedule a read of the job if a queue may want it."""
        if not tenant or tenant in self._owners or None in self._owners:
            # Changes beyond the limit are found by the next read of all events.
            if len(self._changed) < _MAX_CHANGED:
                self._changed[job_id] = None
            self._wakeup.set()

    def on_close(self) -> None:
        """Close all queues."""
        for queue in self._queues:
            queue.close()

    async def load_changes(self, events: Iterable[StateEvent], position: datetime) -> Sequence[JobChange]:
        """Read the present rows of the jobs of *events*."""
        old_states: dict[str, set[State]] = defaultdict(set)
        for event in events:
            old_states[event.job_id] |= {event.old_state} - {None}  # type: ignore[arg-type]
        changes, job_ids = list[JobChange](), list(old_states)
        for start in range(0, len(job_ids), PAGE_SIZE):
            jobs = await self._store.get_with_deleted(job_ids[start : start + PAGE_SIZE])
            views = await self._views.list_views(jobs, with_children=False)
            for job, view in zip(jobs, views, strict=True):
                changes.append(JobChange(job, frozenset(old_states[job.id]), position, view.wait))
        return changes

    async def _ensure_started(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        try:
            await asyncio.shield(self._starting)
        except ReelhaulError:
            self._starting = None
            raise

    async def _start(self) -> None:
        """Store the revisions of recently changed jobs, and start reading after them."""
        self._hub.subscribe_all(self)
        try:
            started = self._now()
            async for events in self._pages_since(started - COMMIT_DELAY):
                for event in events:
                    self._record_revision(event.job_id, event.revision)
            self.position = started
        except BaseException:
            self._hub.unsubscribe_all(self)
            raise
        self._reader = asyncio.create_task(self._read_loop())

    async def _stop(self) -> None:
        starting, reader, self._starting, self._reader = self._starting, self._reader, None, None
        self._revisions.clear()
        self._changed.clear()
        await cancel_and_wait(*filter(None, (starting, reader)))
        if reader is not None:
            self._hub.unsubscribe_all(self)

    async def _read_loop(self) -> None:
        clock = asyncio.get_running_loop().time
        last_scan, scanned_to = clock(), self.position
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, last_scan + limits.REREAD_SECONDS - clock())):
                    await self._wakeup.wait()
            await asyncio.sleep(_BATCH_SECONDS)
            started = self._now()
            try:
                await self._read_changed(started)
                if clock() >= last_scan + limits.REREAD_SECONDS:
                    await self._read_all(scanned_to, started)
                    last_scan, scanned_to = clock(), started
                self.position = started
            except ReelhaulError as error:
                log.warning("changes could not be read", extra={"cause": repr(error)})
                await asyncio.sleep(_RETRY_SECONDS)

    async def _read_changed(self, started: datetime) -> None:
        """Offer the jobs that the bus reported as changed, in any way."""
        self._wakeup.clear()
        while job_ids := list(self._changed)[:PAGE_SIZE]:
            for job_id in job_ids:
                # Before reading: a job that changes while it is read must be read again.
                del self._changed[job_id]
            try:
                events = await self._store.list_state_events(
                    StateEvent(started - COMMIT_DELAY), PAGE_SIZE, among=job_ids
                )
                # Also the jobs without an event: a row may change without a change of state.
                wanted = [*events, *(StateEvent(started, job_id) for job_id in job_ids)]
                await self._offer(await self.load_changes(wanted, started))
            except ReelhaulError:
                self._changed |= dict.fromkeys(job_ids)
                raise

    async def _read_all(self, scanned_to: datetime, started: datetime) -> None:
        """Offer the jobs with events since *scanned_to*, or shortly before, that were not offered yet."""
        async for events in self._pages_since(scanned_to - COMMIT_DELAY):
            new = [event for event in events if event.revision > self._revisions.get(event.job_id, 0)]
            await self._offer(await self.load_changes(new, started))

    async def _pages_since(self, time: datetime) -> AsyncIterator[Sequence[StateEvent]]:
        after = StateEvent(time)
        while events := await self._store.list_state_events(after, PAGE_SIZE):
            yield events
            if len(events) < PAGE_SIZE:
                return
            after = events[-1]

    async def _offer(self, changes: Sequence[JobChange]) -> None:
        offered = 0
        for change in changes:
            if self._record_revision(change.job.id, change.job.revision):
                for queue in self._queues:
                    queue.offer(change)
                offered += len(self._queues)
            if offered >= _OFFERS_PER_TURN:
                # A few milliseconds: let other tasks run.
                offered = 0
                await asyncio.sleep(0)

    def _record_revision(self, job_id: str, revision: int) -> bool:
        """Record *revision*; return whether it is new."""
        if revision <= self._revisions.get(job_id, 0):
            return False
        self._revisions[job_id] = revision
        self._revisions.move_to_end(job_id)
        if len(self._revisions) > _MAX_REVISIONS:
            self._revisions.popitem(last=False)
        return True
