"""Watching many jobs: one stream of the changes of all jobs that a filter matches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from reelhaul_jobs.model.watch import JobChange, StreamMessage, WatchQuery
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.state_events import StateEvent, StateEventStore
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.watch.change_feed import COMMIT_DELAY, PAGE_SIZE, ChangeFeed
from reelhaul_jobs.service.watch.conflating_queue import ConflatingQueue
from reelhaul_jobs.service.watch.limits import EVENT_RETENTION, MAX_STREAM_SECONDS, stream_ended
from reelhaul_jobs.service.watch.resume_tokens import Position, ResumeTokens

# A watcher that resumes and missed more state changes than this must list again.
_MAX_MISSED = 2_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FilterStreams:
    """Opens streams of what changes in many jobs."""

    def __init__(
        self, feed: ChangeFeed, store: StateEventStore, hub: EventHub, tokens: ResumeTokens, now: Clock
    ) -> None:
        self._feed = feed
        self._store = store
        self._hub = hub
        self._tokens = tokens
        self._now = now

    async def watch(self, query: WatchQuery, resume: str) -> AsyncIterator[StreamMessage]:
        """Yield the changes after *resume*; empty: from now on, after a first heartbeat.

        The stream does not end by itself. Raises RESUME_TOKEN_INVALID, QUOTA_EXCEEDED, and
        OVERLOADED when the server drains.
        """
        cursor = _Cursor(query, self._tokens, self._now)
        with self._hub.watcher_slot(query.owner, "list"):
            async with self._feed.queue(query.owner, query.matches) as queue:
                missed: Sequence[JobChange] | None = ()
                if resume:
                    missed = await self._missed(query, cursor.resume(resume))
                if missed is None or not resume:
                    yield cursor.message(self._feed.position, reset=missed is None)
                for change in missed or ():
                    queue.offer(change)
                async for message in self._messages(query, cursor, queue):
                    yield message

    async def _messages(
        self, query: WatchQuery, cursor: _Cursor, queue: ConflatingQueue
    ) -> AsyncIterator[StreamMessage]:
        clock = asyncio.get_running_loop().time
        started = last_sent = clock()
        while True:
            queue.wakeup.clear()
            if queue.overflowed:
                queue.overflowed = False
                yield cursor.message(self._feed.position, reset=True)
            while change := queue.take():
                yield cursor.message(change.position, change)
                last_sent = clock()
            if queue.closed or clock() - started > MAX_STREAM_SECONDS:
                raise stream_ended()
            if clock() - last_sent >= query.heartbeat:
                last_sent = clock()
                yield cursor.heartbeat(self._feed.position)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, last_sent + query.heartbeat - clock())):
                    await queue.wakeup.wait()

    async def _missed(self, query: WatchQuery, since: datetime) -> Sequence[JobChange] | None:
        """Return what changed since a position; None where that is no longer known, or too much."""
        if since + EVENT_RETENTION < self._now():
            return None
        after, events = StateEvent(since - COMMIT_DELAY), list[StateEvent]()
        while True:
            page = await self._store.list_state_events(after, PAGE_SIZE, tenant=query.owner)
            events += page
            if len(events) > _MAX_MISSED:
                return None
            if len(page) < PAGE_SIZE:
                # The position stays where it was until all of them have been sent.
                return await self._feed.load_changes(events, since)
            after = events[-1]


class _Cursor:
    """The position of one watcher: numbers its messages and signs their tokens."""

    def __init__(self, query: WatchQuery, tokens: ResumeTokens, now: Clock) -> None:
        self._purpose = f"many of {query.owner!r}: {query.text}"
        self._tokens = tokens
        self._now = now
        self._sequence = 0

    def resume(self, token: str) -> datetime:
        """Continue after *token*; return the time before which everything had been sent."""
        position = self._tokens.read(self._purpose, token)
        self._sequence = position.sequence
        return position.time

    def message(
        self, position: datetime, change: JobChange | None = None, *, reset: bool = False
    ) -> StreamMessage:
        """Return the next numbered message."""
        # From the clock, so that sequences also grow from server to server.
        self._sequence = max(self._sequence + 1, (self._now() - _EPOCH) // timedelta(microseconds=1))
        return StreamMessage(self._sequence, self._token(position), change, reset)

    def heartbeat(self, position: datetime) -> StreamMessage:
        """Return a message that repeats the sequence of the previous one."""
        return StreamMessage(self._sequence, self._token(position))

    def _token(self, position: datetime) -> str:
        return self._tokens.create(self._purpose, Position(self._sequence, position))
