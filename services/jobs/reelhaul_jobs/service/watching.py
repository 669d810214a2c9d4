"""Watching: a job's story as a stream. State first, every change, newest progress, a last word."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.model.job import Event, Job
from reelhaul_jobs.model.states import State
from reelhaul_jobs.ports import Clock, JobBus, JobStore, Notice
from reelhaul_jobs.service.hub import Hub, Mailbox
from reelhaul_jobs.service.jobs import Owner
from reelhaul_jobs.service.tokens import Position, Tokens
from reelhaul_runtime.errors import NotFound, ReelhaulError

#: How long events are kept: a watcher that comes back later begins anew.
EVENTS_KEPT = timedelta(hours=24)

# A lost notice costs no more than this.
_REREAD_SECONDS = 5.0
# Just under the policy's 12 h: the stream ends with UNAVAILABLE, not with DEADLINE_EXCEEDED.
_LONGEST_SECONDS = 12 * 3600 - 30.0
# More changes at once than this are told as a snapshot: memory per watcher is bounded.
_MOST_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole job."""

    job: Job
    reset: bool = False
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a watch; ``body`` says what happened."""

    sequence: int
    resume_token: str
    time: datetime
    body: Snapshot | Event | media_pb2.Progress | Heartbeat
    conflated: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a watcher wants to hear: seconds between progress, and of silence."""

    progress: float = 0.25
    heartbeat: float = 15.0


class Watches:
    """Streams of what happens to jobs."""

    def __init__(self, store: JobStore, bus: JobBus, hub: Hub, tokens: Tokens, now: Clock) -> None:
        self._store = store
        self._bus = bus
        self._hub = hub
        self._tokens = tokens
        self._now = now

    async def watch(self, job_id: str, owner: Owner, resume: str, pace: Pace) -> AsyncIterator[Message]:
        """The job's messages from *resume* on (empty: from a snapshot) until it is terminal.

        Raises ``NotFound``, RESUME_TOKEN_INVALID, and OVERLOADED when the server drains.
        """
        # The mailbox first: nothing that happens while the row is read may be missed.
        with self._hub.mailbox(job_id) as box:
            job = await self._read(job_id)
            if owner is not None and job.tenant != owner:
                raise NotFound(job.name)
            watch = _Watch(job, self._tokens, self._now)
            if not resume or not watch.resumed(self._tokens.position(job_id, resume)):
                yield watch.snapshot(self._fresh(job, await self._notice(job)), reset=bool(resume))
                if watch.over:
                    return
            async for message in self._follow(watch, box, pace):
                yield message

    async def _follow(self, watch: _Watch, box: Mailbox, pace: Pace) -> AsyncIterator[Message]:
        begun = heard = time.monotonic()
        read, told = begun, begun - pace.progress
        if notice := await self._notice(watch.job):
            box.offer(notice)
        while True:
            async for message in self._states(watch):
                heard = time.monotonic()
                yield message
            if watch.over:
                return
            now = time.monotonic()
            if now - told >= pace.progress and (progress := watch.progress(box)):
                told = heard = now
                yield progress
            if now - heard >= pace.heartbeat:
                heard = now
                yield watch.heartbeat()
            ends = min(heard + pace.heartbeat, read + _REREAD_SECONDS)
            # Within the pace progress rings no bell: look again when it is over, or none is heard of.
            due = now - told >= pace.progress
            await box.wait(max(0.0, (ends if due else min(ends, told + pace.progress)) - now), progress=due)
            _check_goes_on(box, begun)
            stale = box.revision > watch.job.revision or _newer_lease(box, watch.job)
            if stale or time.monotonic() - read >= _REREAD_SECONDS:
                read = time.monotonic()
                await self._reread(watch)

    async def _states(self, watch: _Watch) -> AsyncIterator[Message]:
        """What the events tell since the last message, and the last word where it has ended."""
        if watch.revision < watch.job.revision:
            events = await self._store.events(watch.job.id, after=watch.revision, limit=_MOST_EVENTS + 1)
            if len(events) > _MOST_EVENTS:
                yield watch.snapshot(watch.job, reset=True)
            else:
                for event in events:
                    yield watch.moved(event)
                watch.revision = max(watch.revision, watch.job.revision)
        if watch.job.state.terminal and not watch.over:
            yield watch.snapshot(watch.job)

    async def _reread(self, watch: _Watch) -> None:
        try:
            job = await self._read(watch.job.id)
        except NotFound:
            # It was deleted: its watchers get what was known of it as their last word.
            gone = replace(watch.job, state=State.CANCELLED, revision=watch.job.revision + 1)
            job = watch.job if watch.job.state.terminal else gone
        watch.job = job

    async def _read(self, job_id: str) -> Job:
        return await self._store.get(job_id)

    async def _notice(self, job: Job) -> Notice | None:
        return (self._hub.newest(job.id) or await self._bus.progress(job.id)) if job.leased else None

    def _fresh(self, job: Job, notice: Notice | None) -> Job:
        if notice is None or notice.epoch != job.epoch:
            return job
        return replace(job, progress=notice.progress)


class _Watch:
    """Where one watcher is: numbers its messages, strictly growing, and seals their tokens."""

    def __init__(self, job: Job, tokens: Tokens, now: Clock) -> None:
        self.job = job
        #: The newest revision that the watcher knows of.
        self.revision = 0
        #: The terminal snapshot was sent.
        self.over = False
        self._sequence = 0
        self._notice = (0, 0)
        self._tokens = tokens
        self._now = now

    def resumed(self, position: Position) -> bool:
        """Go on from *position*, if what came after it is still known."""
        revision = position.sequence >> 32
        if position.time + EVENTS_KEPT < self._now() or revision > self.job.revision:
            return False
        self._sequence, self.revision = position.sequence, revision
        return True

    def snapshot(self, job: Job, *, reset: bool = False) -> Message:
        """The whole job; the last message where it has ended."""
        self.revision = max(self.revision, job.revision)
        self.over = job.state.terminal
        body = Snapshot(job, reset=reset, terminal=self.over)
        return self._message(job.revision << 32, self._now(), body)

    def moved(self, event: Event) -> Message:
        """A state change."""
        self.revision = event.revision
        return self._message(event.revision << 32, event.time, event)

    def progress(self, box: Mailbox) -> Message | None:
        """The newest progress of the present lease; None where there is none that is new."""
        notice, dropped = box.take()
        if notice is None or not self.job.leased or notice.epoch != self.job.epoch:
            return None
        if (notice.epoch, notice.sequence) <= self._notice:
            return None
        self._notice = notice.epoch, notice.sequence
        natural = self.job.revision << 32 | min(notice.sequence, 2**32 - 1)
        if natural <= self._sequence:
            # Seen before a resume.
            return None
        return self._message(natural, self._now(), notice.progress, dropped)

    def heartbeat(self) -> Message:
        """Nothing happened; the position is good."""
        return Message(self._sequence, self._token(), self._now(), Heartbeat())

    def _message(
        self, natural: int, when: datetime, body: Snapshot | Event | media_pb2.Progress, dropped: int = 0
    ) -> Message:
        self._sequence = max(natural, self._sequence + 1)
        return Message(self._sequence, self._token(), when, body, dropped)

    def _token(self) -> str:
        return self._tokens.resume(self.job.id, Position(self._sequence, self._now()))


def _newer_lease(box: Mailbox, job: Job) -> bool:
    return box.notice is not None and box.notice.epoch > job.epoch


def _check_goes_on(box: Mailbox, begun: float) -> None:
    if box.closed or time.monotonic() - begun > _LONGEST_SECONDS:
        raise ReelhaulError(
            ErrorReason.OVERLOADED,
            "this stream ends here; go on with its resume_token",
            retry_delay=timedelta(milliseconds=200),
        )
