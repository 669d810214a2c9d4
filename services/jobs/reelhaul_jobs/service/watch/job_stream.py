"""Watching one job: a snapshot, every state change, the latest progress, a terminal snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model.job import Event
from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.watch import Heartbeat, Message, Pace, Snapshot
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.watch.limits import EVENT_RETENTION, MAX_STREAM_SECONDS, stream_ended
from reelhaul_jobs.service.watch.resume_tokens import END_COUNTER, Position, ResumeTokens
from reelhaul_jobs.service.watch.wakeup import Wakeup
from reelhaul_jobs.service.watch.watched_jobs import WatchedJob, WatchedJobs
from reelhaul_runtime.errors import NotFound


class JobStreams:
    """Opens streams of what happens to one job."""

    def __init__(self, watched: WatchedJobs, hub: EventHub, tokens: ResumeTokens, now: Clock) -> None:
        self._watched = watched
        self._hub = hub
        self._tokens = tokens
        self._now = now

    async def watch(self, job_id: str, owner: Owner, resume: str, pace: Pace) -> AsyncIterator[Message]:
        """Yield the job's messages after *resume* (empty: from a snapshot) until the job is terminal.

        Yields nothing to a watcher that has received the terminal snapshot, unless the job was retried.
        Raises ``NotFound``, RESUME_TOKEN_INVALID, QUOTA_EXCEEDED, and OVERLOADED when the server drains.
        """
        async with self._open(job_id, owner) as cursor:
            if not resume or not cursor.resume(self._tokens.read(job_id, resume), self._now()):
                yield cursor.snapshot(reset=bool(resume))
            async for message in cursor.messages(pace):
                yield message

    @asynccontextmanager
    async def _open(self, job_id: str, owner: Owner) -> AsyncIterator[_Cursor]:
        wakeup = Wakeup()
        with self._hub.watcher_slot(owner):
            async with self._watched.open(job_id) as watched:
                if owner is not None and watched.job.tenant != owner:
                    raise NotFound(watched.job.name)
                watched.wakeups.add(wakeup)
                try:
                    yield _Cursor(watched, wakeup, self._now)
                finally:
                    watched.wakeups.discard(wakeup)
                    wakeup.close()


class _Cursor:
    """The position of one watcher. It holds no more than that: the messages are shared."""

    def __init__(self, watched: WatchedJob, wakeup: Wakeup, now: Clock) -> None:
        self._watched = watched
        self._wakeup = wakeup
        self._now = now
        # The latest revision that the watcher has received.
        self._revision = 0
        self._terminal_sent = False
        # Whether the watcher resumes after a terminal snapshot.
        self._resumes_at_end = False
        self._sequence = 0
        self._progress_count = watched.progress_count
        # The latest progress that was sent, by itself or in a snapshot.
        self._sent_progress: object = None

    def resume(self, position: Position, now: datetime) -> bool:
        """Continue after *position*; return whether the events after it are still kept."""
        revision = position.sequence >> 32
        if position.time + EVENT_RETENTION < now or revision > self._watched.job.revision:
            return False
        self._sequence, self._revision = position.sequence, revision
        self._resumes_at_end = position.is_end
        return True

    def snapshot(self, *, reset: bool = False) -> Message:
        """Return the whole job; it is the last message where the job has ended."""
        job = self._watched.job
        self._revision, self._terminal_sent = job.revision, self._watched.has_ended
        counter = END_COUNTER if self._terminal_sent else 0
        sequence = max(job.revision << 32 | counter, self._sequence + 1)
        return self._sent(self._watched.snapshot(sequence, reset=reset))

    async def messages(self, pace: Pace) -> AsyncIterator[Message]:
        """Yield messages from the current position on, until the terminal snapshot.

        The terminal snapshot of an expansion is sent when its jobs have ended too.
        """
        clock = asyncio.get_running_loop().time
        started = last_sent = clock()
        # When the next progress may be sent; the first one always may.
        progress_due = 0.0
        while not self._terminal_sent:
            if self._revision < self._watched.job.revision or self._watched.has_ended or self._resumes_at_end:
                for message in await self._state_changes():
                    yield message
                last_sent = clock()
                continue
            now = clock()
            if now >= progress_due - pace.leeway and (progress := self._next_progress()):
                # Counted from its arrival, not from when this watcher was scheduled: otherwise the
                # schedules of many watchers would drift apart, each waiting for its own time.
                last_sent = now
                progress_due = max(self._watched.progress_time, progress_due) + pace.progress
                yield progress
            elif now - last_sent >= pace.heartbeat:
                last_sent = now
                yield self._heartbeat()
            if self._watched.draining or now - started > MAX_STREAM_SECONDS:
                raise stream_ended()
            has_progress = self._new_progress() is not None
            await self._wakeup.wait(
                last_sent + pace.heartbeat, progress_due - pace.leeway, has_progress=has_progress
            )

    async def _state_changes(self) -> Sequence[Message]:
        """Return the events since the last message, and the terminal snapshot where the job has ended.

        Only events of a retry follow a terminal snapshot that was received before.
        """
        job = self._watched.job
        resumes_at_end, self._resumes_at_end = self._resumes_at_end, False
        events = self._watched.events_after(self._revision)
        if events is None:
            events = await self._watched.load_events_after(self._revision)
        if events is None:
            return [self.snapshot(reset=True)]
        self._revision = max(self._revision, job.revision)
        messages = [self._sent(event) for event in events]
        # A delivery is no state of the job: watchers get the whole job.
        if job.deliveries and job.delivery_time is not None and self._watched.job is job:
            return [*messages, self.snapshot()]
        # If it was retried meanwhile, there are further events to send first.
        if resumes_at_end and not messages and job.state.is_terminal:
            self._terminal_sent = True
        elif self._watched.has_ended and self._watched.job is job:
            messages.append(self.snapshot())
        return messages

    def _new_progress(self) -> Message | None:
        """Return the latest progress unless it was sent already, also before a resume."""
        progress = self._watched.latest_progress()
        if progress is None or progress.body is self._sent_progress or progress.sequence <= self._sequence:
            return None
        return progress

    def _next_progress(self) -> Message | None:
        progress = self._new_progress()
        if progress is None:
            return None
        skipped = max(0, self._watched.progress_count - self._progress_count - 1)
        self._progress_count = self._watched.progress_count
        self._sent(progress)
        return progress.with_conflated(skipped) if skipped else progress

    def _heartbeat(self) -> Message:
        token = self._watched.resume_token(self._sequence)
        return Message(self._sequence, token, self._now(), Heartbeat())

    def _sent(self, message: Message) -> Message:
        self._sequence = message.sequence
        match message.body:
            case Snapshot(job):
                # The snapshot contains the latest progress, which is not sent again.
                latest = self._watched.latest_progress()
                self._sent_progress = latest.body if latest else job.progress
            case media_pb2.Progress() | Event() as update:
                self._sent_progress = update
        return message
