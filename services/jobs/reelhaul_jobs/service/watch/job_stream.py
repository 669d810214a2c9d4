"""Watching one job: state first, every change, newest progress, a last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.jobs import Owner
from reelhaul_jobs.service.tokens import Position, Tokens
from reelhaul_jobs.service.watch.job_snapshot_cache import Topic
from reelhaul_jobs.service.watch.messages import (
    EVENTS_KEPT,
    LONGEST_SECONDS,
    Heartbeat,
    Message,
    Pace,
    Snapshot,
    stream_ended,
)
from reelhaul_jobs.service.watch.wakeup import Wakeup
from reelhaul_jobs.service.watch.watched_jobs import WatchedJobs
from reelhaul_runtime.errors import NotFound


class JobStreams:
    """Streams of what happens to a job."""

    def __init__(self, topics: WatchedJobs, hub: EventHub, tokens: Tokens, now: Clock) -> None:
        self._topics = topics
        self._hub = hub
        self._tokens = tokens
        self._now = now

    async def watch(self, job_id: str, owner: Owner, resume: str, pace: Pace) -> AsyncIterator[Message]:
        """The job's messages from *resume* on (empty: from a snapshot) until it is terminal.

        Raises ``NotFound``, RESUME_TOKEN_INVALID, and OVERLOADED when the server drains.
        """
        async with self._watch(job_id, owner) as watch:
            if not resume or not watch.resumed(self._tokens.position(job_id, resume), self._now()):
                yield watch.snapshot(reset=bool(resume))
            async for message in watch.on(pace):
                yield message

    @asynccontextmanager
    async def _watch(self, job_id: str, owner: Owner) -> AsyncIterator[_Watch]:
        bell = Wakeup()
        with self._hub.admitted():
            async with self._topics.topic(job_id) as topic:
                if owner is not None and topic.job.tenant != owner:
                    raise NotFound(topic.job.name)
                topic.bells.add(bell)
                try:
                    yield _Watch(topic, bell, self._now)
                finally:
                    topic.bells.discard(bell)
                    bell.close()


class _Watch:
    """Where one watcher is. It holds no more than that: messages are the topic's."""

    def __init__(self, topic: Topic, bell: Wakeup, now: Clock) -> None:
        self._topic = topic
        self._bell = bell
        self._now = now
        # The newest revision that the watcher knows of.
        self._revision = 0
        # The terminal snapshot was sent.
        self._over = False
        self._sequence = 0
        self._arrivals = topic.arrivals
        # The newest progress that it was told, by itself or in a snapshot.
        self._heard: object = None

    def resumed(self, position: Position, now: datetime) -> bool:
        """Go on from *position*, if what came after it is still known."""
        revision = position.sequence >> 32
        if position.time + EVENTS_KEPT < now or revision > self._topic.job.revision:
            return False
        self._sequence, self._revision = position.sequence, revision
        return True

    def snapshot(self, *, reset: bool = False) -> Message:
        """The whole job; the last message where it has ended."""
        job = self._topic.job
        self._revision, self._over = job.revision, job.state.is_terminal
        return self._told(self._topic.snapshot(max(job.revision << 32, self._sequence + 1), reset=reset))

    async def on(self, pace: Pace) -> AsyncIterator[Message]:
        """What happens from here on, to the terminal snapshot."""
        clock = asyncio.get_running_loop().time
        begun = heard = clock()
        # When the next progress is due; the first one always is.
        due = 0.0
        while not self._over:
            if self._revision < self._topic.job.revision or self._topic.job.state.is_terminal:
                for message in await self._states():
                    yield message
                heard = clock()
                continue
            now = clock()
            if now >= due - pace.leeway and (progress := self._progress()):
                # From when it came, not from when it was this watcher's turn: the turns of many
                # would drift apart, and each wait for its own.
                heard, due = now, max(self._topic.came, due) + pace.progress
                yield progress
            elif now - heard >= pace.heartbeat:
                heard = now
                yield Message(self._sequence, self._topic.token(self._sequence), self._now(), Heartbeat())
            if self._topic.ended or now - begun > LONGEST_SECONDS:
                raise stream_ended()
            stirred = self._unseen() is not None
            await self._bell.wait(heard + pace.heartbeat, due - pace.leeway, stirred=stirred)

    async def _states(self) -> Sequence[Message]:
        """What the events tell since the last message, and the last word where the job has ended."""
        job = self._topic.job
        changes = self._topic.changes(self._revision)
        if changes is None:
            changes = await self._topic.older_changes(self._revision)
        if changes is None:
            return [self.snapshot(reset=True)]
        self._revision = max(self._revision, job.revision)
        told = [self._told(message) for message in changes]
        # It may have been retried meanwhile: then there is more to tell first.
        if job.state.is_terminal and self._topic.job is job:
            told.append(self.snapshot())
        return told

    def _unseen(self) -> Message | None:
        """The newest progress, where the watcher has not heard of it, before a resume neither."""
        progress = self._topic.progress()
        if progress is None or progress.body is self._heard or progress.sequence <= self._sequence:
            return None
        return progress

    def _progress(self) -> Message | None:
        progress = self._unseen()
        if progress is None:
            return None
        dropped = max(0, self._topic.arrivals - self._arrivals - 1)
        self._arrivals = self._topic.arrivals
        self._told(progress)
        return progress.after(dropped) if dropped else progress

    def _told(self, message: Message) -> Message:
        self._sequence = message.sequence
        match message.body:
            case Snapshot(job):
                self._heard = job.progress
            case media_pb2.Progress() as progress:
                self._heard = progress
        return message
