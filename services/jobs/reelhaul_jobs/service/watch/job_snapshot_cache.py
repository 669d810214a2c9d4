"""A topic: one watched job, read and put into words once for all who watch it here."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from reelhaul_jobs.model.job import Event, Job
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports.bus import JobBus, ProgressNotice
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.tokens import Position, Tokens
from reelhaul_jobs.service.watch.messages import Message, Snapshot
from reelhaul_jobs.service.watch.wakeup_group import WakeupGroup
from reelhaul_runtime.errors import NotFound, ReelhaulError

log = logging.getLogger(__name__)

#: More changes at once than this are told as a snapshot: memory per watcher is bounded.
MOST_EVENTS = 64


class Topic:
    """What is known here of a job: its row, its latest events, its newest progress."""

    job: Job

    def __init__(
        self, job_id: str, store: JobStore, bus: JobBus, hub: EventHub, tokens: Tokens, now: Clock
    ) -> None:
        self._id = job_id
        self._store, self._bus, self._hub = store, bus, hub
        self._tokens, self._now = tokens, now
        self.bells = WakeupGroup()
        #: Notices of progress that came: those between two looks were conflated.
        self.arrivals = 0
        #: When the newest of them came, by the loop's clock.
        self.came = 0.0
        #: No more will be told: the process drains.
        self.ended = False
        #: The job was deleted.
        self.gone = False
        self._notice: ProgressNotice | None = None
        self._events: deque[Message] = deque(maxlen=MOST_EVENTS)
        # All events after this revision are in hand.
        self._since = 0
        self._progress: tuple[ProgressNotice, int, Message] | None = None
        self._snapshot: tuple[Job, ProgressNotice | None, Message] | None = None
        self._coming: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()

    def progressed(self, notice: ProgressNotice) -> None:
        """See Listener."""
        self._notice = notice
        self.arrivals += 1
        self.came = asyncio.get_running_loop().time()
        if notice.epoch > self.job.epoch:
            self.reread_soon()
        self.bells.stir()

    def row_changed(self, revision: int) -> None:
        """See Listener."""
        if revision > self.job.revision:
            self.reread_soon()

    def closed(self) -> None:
        """See Listener."""
        self.ended = True
        self.bells.ring()

    async def begin(self) -> None:
        """Read the job for the first time, after listening. ``NotFound`` if there is none."""
        self.job = await self._store.get(self._id)
        self._since = self.job.revision
        self._hub.listen(self._id, self)
        # What came between the read and now.
        await self.reread()
        if self.job.is_leased:
            self._notice = self._hub.newest(self._id) or await self._bus.get_last_progress(self._id)

    async def reread(self) -> None:
        """Read the row as it is now; who asks at the same time shares the reading."""
        await asyncio.shield(self._read_begun())

    def reread_soon(self) -> None:
        """Read the row anew, and wake the watchers if it has changed."""
        self._read_begun()

    def changes(self, after: int) -> Sequence[Message] | None:
        """State changes after a revision; None where not all are in hand."""
        if after < self._since:
            return None
        return [message for message in self._events if message.sequence >> 32 > after]

    async def older_changes(self, after: int) -> Sequence[Message] | None:
        """The same from the store; None where there are too many."""
        upto = self.job.revision
        events = await self._store.list_events(self._id, after=after, limit=MOST_EVENTS + 1)
        if len(events) > MOST_EVENTS:
            return None
        return [self._moved(event) for event in events if event.revision <= upto]

    def progress(self) -> Message | None:
        """The newest progress of the present lease."""
        notice, job = self._notice, self.job
        if notice is None or not job.is_leased or notice.epoch != job.epoch:
            return None
        told = self._progress
        if told is None or told[0] is not notice or told[1] != job.revision:
            sequence = job.revision << 32 | min(notice.sequence, 2**32 - 1)
            told = notice, job.revision, self._message(sequence, notice.progress)
            self._progress = told
        return told[2]

    def snapshot(self, sequence: int, *, reset: bool) -> Message:
        """The whole job as it is now."""
        job, notice, told = self.job, self._notice, self._snapshot
        if told and told[0] is job and told[1] is notice and told[2].sequence == sequence and not reset:
            return told[2]
        fresh = notice is not None and job.is_leased and notice.epoch == job.epoch
        shown = job.replace_fields(progress=notice.progress) if fresh and notice else job
        message = self._message(sequence, Snapshot(shown, reset=reset, terminal=job.state.is_terminal))
        if not reset:
            self._snapshot = job, notice, message
        return message

    def token(self, sequence: int) -> str:
        """The resume_token of a position, as of now."""
        return self._tokens.resume(self._id, Position(sequence, self._now()))

    def _read_begun(self) -> asyncio.Task[None]:
        if self._coming is None:
            self._coming = asyncio.create_task(self._read())
            self._coming.add_done_callback(_note)
        return self._coming

    async def _read(self) -> None:
        async with self._reading:
            # A reading that has begun may be too old for who asks from now on.
            self._coming = None
            before = self.job
            try:
                job = await self._store.get(self._id)
            except NotFound:
                job, self.gone = _gone(before), True
            if job.revision <= before.revision:
                return
            found = await self._store.list_events(self._id, after=before.revision, limit=MOST_EVENTS + 1)
            self._learn(job, found)
        self.bells.ring()

    def _learn(self, job: Job, found: Sequence[Event]) -> None:
        if len(found) > MOST_EVENTS:
            self._events.clear()
            self._since = job.revision
        else:
            # Later ones belong to a row not read yet.
            for event in found:
                if event.revision <= job.revision:
                    if len(self._events) == MOST_EVENTS:
                        self._since = self._events[0].sequence >> 32
                    self._events.append(self._moved(event))
        self.job = job

    def _moved(self, event: Event) -> Message:
        sequence = event.revision << 32
        return Message(sequence, self.token(sequence), event.time, event)

    def _message(self, sequence: int, body: Snapshot | object) -> Message:
        now = self._now()
        token = self._tokens.resume(self._id, Position(sequence, now))
        return Message(sequence, token, now, body)  # type: ignore[arg-type]


def _gone(job: Job) -> Job:
    """A deleted job: its watchers get what was known of it as their last word."""
    if job.state.is_terminal:
        return job
    return job.replace_fields(state=State.CANCELLED, revision=job.revision + 1)


def _note(reading: asyncio.Task[None]) -> None:
    """Who waits for a reading is told of its failure; else the next look makes up for it."""
    if not reading.cancelled() and (error := reading.exception()):
        log.log(
            logging.WARNING if isinstance(error, ReelhaulError) else logging.ERROR,
            "a watched job could not be read",
            exc_info=None if isinstance(error, ReelhaulError) else error,
            extra={"cause": repr(error)},
        )
