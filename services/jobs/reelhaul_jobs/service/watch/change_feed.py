"""The feed: every change of every job, read once for all who follow many jobs here."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.state_events import StateEvent, StateEventStore
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.watch import messages
from reelhaul_jobs.service.watch.conflating_queue import Changed, Queue, Wanted
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

#: How late a move may be committed after its time, clocks apart included, and still be found.
LATENESS = timedelta(seconds=10)

#: Rows and moves read at once.
AT_ONCE = 500

# Changes that come together are read together.
_TOGETHER_SECONDS = 0.02
_AGAIN_SECONDS = 1.0
_MOST_STIRRED = 10_000
_MOST_KNOWN = 20_000
_OFFERED_AT_ONCE = 1_000


class Feed:
    """Reads while anybody follows: at once what the bus tells of, and now and then all that moved."""

    def __init__(self, store: StateEventStore, hub: EventHub, now: Clock) -> None:
        self._store, self._hub, self._now = store, hub, now
        self._queues: set[Queue] = set()
        self._owners: dict[str | None, int] = defaultdict(int)
        self._stirred: dict[str, None] = {}
        self._bell = asyncio.Event()
        # Revisions told, so that nothing is told twice without need.
        self._known: OrderedDict[str, int] = OrderedDict()
        self._begun: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        #: All that moved before this time has been offered.
        self.position = now()

    @asynccontextmanager
    async def queue(self, owner: str | None, wanted: Wanted) -> AsyncIterator[Queue]:
        """A queue of what changes from now on in the jobs of *owner* (None: everyone's)."""
        queue = Queue(wanted)
        self._queues.add(queue)
        self._owners[owner] += 1
        try:
            await self._started()
            yield queue
        finally:
            self._queues.discard(queue)
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
            if not self._queues:
                await self._stop()

    def row_changed(self, job_id: str, tenant: str) -> None:
        """See AllListener."""
        if not tenant or tenant in self._owners or None in self._owners:
            # What does not fit is found by the next look at all moves.
            if len(self._stirred) < _MOST_STIRRED:
                self._stirred[job_id] = None
            self._bell.set()

    def closed(self) -> None:
        """See AllListener."""
        for queue in self._queues:
            queue.close()

    async def changed(self, moves: Iterable[StateEvent], position: datetime) -> Sequence[Changed]:
        """The jobs of *moves* as they are now."""
        left: dict[str, set[State]] = defaultdict(set)
        for move in moves:
            left[move.job_id] |= {move.old_state} - {None}  # type: ignore[arg-type]
        told, job_ids = list[Changed](), list(left)
        for start in range(0, len(job_ids), AT_ONCE):
            for job in await self._store.get_with_deleted(job_ids[start : start + AT_ONCE]):
                told.append(Changed(job, frozenset(left[job.id]), position))
        return told

    async def _started(self) -> None:
        if self._begun is None:
            self._begun = asyncio.create_task(self._begin())
        try:
            await asyncio.shield(self._begun)
        except ReelhaulError:
            self._begun = None
            raise

    async def _begin(self) -> None:
        """Learn what has moved up to now, and read on from there."""
        self._hub.listen_all(self)
        try:
            began = self._now()
            async for moves in self._since(began - LATENESS):
                for move in moves:
                    self._learn(move.job_id, move.revision)
            self.position = began
        except BaseException:
            self._hub.leave_all(self)
            raise
        self._reading = asyncio.create_task(self._read_on())

    async def _stop(self) -> None:
        begun, reading, self._begun, self._reading = self._begun, self._reading, None, None
        self._known.clear()
        self._stirred.clear()
        await cancel_and_wait(*filter(None, (begun, reading)))
        if reading is not None:
            self._hub.leave_all(self)

    async def _read_on(self) -> None:
        clock = asyncio.get_running_loop().time
        looked, scanned = clock(), self.position
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, looked + messages.REREAD_SECONDS - clock())):
                    await self._bell.wait()
            await asyncio.sleep(_TOGETHER_SECONDS)
            began = self._now()
            try:
                await self._read_stirred(began)
                if clock() >= looked + messages.REREAD_SECONDS:
                    await self._read_all(scanned, began)
                    looked, scanned = clock(), began
                self.position = began
            except ReelhaulError as error:
                log.warning("changes could not be read", extra={"cause": repr(error)})
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _read_stirred(self, began: datetime) -> None:
        """Tell of the jobs that the bus told of, also of changes that were no moves."""
        self._bell.clear()
        while job_ids := list(self._stirred)[:AT_ONCE]:
            for job_id in job_ids:
                # Before the reading: what changes in the midst of it is to be read again.
                del self._stirred[job_id]
            try:
                moves = await self._store.list_state_events(
                    StateEvent(began - LATENESS), AT_ONCE, among=job_ids
                )
                # Each is to be read, moved or not.
                asked = [*moves, *(StateEvent(began, job_id) for job_id in job_ids)]
                await self._offer(await self.changed(asked, began))
            except ReelhaulError:
                self._stirred |= dict.fromkeys(job_ids)
                raise

    async def _read_all(self, scanned: datetime, began: datetime) -> None:
        """Tell of what moved since *scanned*, and lately before it, and was not told of yet."""
        async for moves in self._since(scanned - LATENESS):
            news = [move for move in moves if move.revision > self._known.get(move.job_id, 0)]
            await self._offer(await self.changed(news, began))

    async def _since(self, time: datetime) -> AsyncIterator[Sequence[StateEvent]]:
        after = StateEvent(time)
        while moves := await self._store.list_state_events(after, AT_ONCE):
            yield moves
            if len(moves) < AT_ONCE:
                return
            after = moves[-1]

    async def _offer(self, changes: Sequence[Changed]) -> None:
        offered = 0
        for changed in changes:
            if self._learn(changed.job.id, changed.job.revision):
                for queue in self._queues:
                    queue.offer(changed)
                offered += len(self._queues)
            if offered >= _OFFERED_AT_ONCE:
                # A few milliseconds: others have their turn.
                offered = 0
                await asyncio.sleep(0)

    def _learn(self, job_id: str, revision: int) -> bool:
        """Whether *revision* is news."""
        if revision <= self._known.get(job_id, 0):
            return False
        self._known[job_id] = revision
        self._known.move_to_end(job_id)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return True
