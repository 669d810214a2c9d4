"""Watching many jobs: one stream for all that a filter holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reelhaul_jobs.filters.ast import Node
from reelhaul_jobs.filters.evaluate import matches
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.ports.state_events import StateEvent, StateEventStore
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.jobs import Owner
from reelhaul_jobs.service.tokens import Position, Tokens
from reelhaul_jobs.service.watch.change_feed import AT_ONCE, LATENESS, Feed
from reelhaul_jobs.service.watch.conflating_queue import Changed, Queue
from reelhaul_jobs.service.watch.messages import EVENTS_KEPT, LONGEST_SECONDS, stream_ended

# Who comes back and missed more moves than this must list again.
_MOST_MISSED = 2_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What a follower asked for: whose jobs, which, and after how many silent seconds a heartbeat."""

    owner: Owner
    where: Node | None
    #: The filter as it was written: a resume_token is good for it only.
    text: str
    heartbeat: float = 15.0

    def wants(self, changed: Changed) -> bool:
        """Whether the filter holds of the job, or did before it left its last states."""
        if self.owner is not None and changed.job.tenant != self.owner:
            return False
        if self.where is None:
            return True
        if matches(self.where, changed.facts):
            return True
        return any(matches(self.where, {**changed.facts, "state": int(state)}) for state in changed.left)


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """One message: a changed job, or a heartbeat (None); ``reset`` says that some were missed."""

    sequence: int
    resume_token: str
    changed: Changed | None = None
    reset: bool = False


class FilterStreams:
    """Streams of what changes in many jobs."""

    def __init__(self, feed: Feed, store: StateEventStore, hub: EventHub, tokens: Tokens, now: Clock) -> None:
        self._feed = feed
        self._store = store
        self._hub = hub
        self._tokens = tokens
        self._now = now

    async def follow(self, asked: Following, resume: str) -> AsyncIterator[StreamMessage]:
        """What changes from *resume* on; empty: from now, which a first heartbeat says.

        It does not end by itself. Raises RESUME_TOKEN_INVALID, and OVERLOADED when the server drains.
        """
        at = _At(asked, self._tokens, self._now)
        with self._hub.admitted():
            async with self._feed.queue(asked.owner, asked.wants) as queue:
                missed: Sequence[Changed] | None = ()
                if resume:
                    missed = await self._missed(asked, at.resumed(resume))
                if missed is None or not resume:
                    yield at.told(self._feed.position, reset=missed is None)
                for changed in missed or ():
                    queue.offer(changed)
                async for told in self._on(asked, at, queue):
                    yield told

    async def _on(self, asked: Following, at: _At, queue: Queue) -> AsyncIterator[StreamMessage]:
        clock = asyncio.get_running_loop().time
        begun = heard = clock()
        while True:
            queue.bell.clear()
            if queue.overflowed:
                queue.overflowed = False
                yield at.told(self._feed.position, reset=True)
            while changed := queue.take():
                yield at.told(changed.position, changed)
                heard = clock()
            if queue.closed or clock() - begun > LONGEST_SECONDS:
                raise stream_ended()
            if clock() - heard >= asked.heartbeat:
                heard = clock()
                yield at.heartbeat(self._feed.position)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, heard + asked.heartbeat - clock())):
                    await queue.bell.wait()

    async def _missed(self, asked: Following, since: datetime) -> Sequence[Changed] | None:
        """What changed since a position; None where that is not known, or too much."""
        if since + EVENTS_KEPT < self._now():
            return None
        after, moves = StateEvent(since - LATENESS), list[StateEvent]()
        while True:
            found = await self._store.list_state_events(after, AT_ONCE, tenant=asked.owner)
            moves += found
            if len(moves) > _MOST_MISSED:
                return None
            if len(found) < AT_ONCE:
                # Until all of them are told the position stays where it was.
                return await self._feed.changed(moves, since)
            after = moves[-1]


class _At:
    """Where one follower is: numbers its messages and seals their tokens."""

    def __init__(self, asked: Following, tokens: Tokens, now: Clock) -> None:
        self._purpose = f"many of {asked.owner!r}: {asked.text}"
        self._tokens = tokens
        self._now = now
        self._sequence = 0

    def resumed(self, token: str) -> datetime:
        """The time up to which *token* says that all was told."""
        position = self._tokens.position(self._purpose, token)
        self._sequence = position.sequence
        return position.time

    def told(
        self, position: datetime, changed: Changed | None = None, *, reset: bool = False
    ) -> StreamMessage:
        """A message that counts."""
        # Of the clock, so that it grows from server to server as well.
        self._sequence = max(self._sequence + 1, (self._now() - _EPOCH) // timedelta(microseconds=1))
        return StreamMessage(self._sequence, self._token(position), changed, reset)

    def heartbeat(self, position: datetime) -> StreamMessage:
        """A message that repeats where it is."""
        return StreamMessage(self._sequence, self._token(position))

    def _token(self, position: datetime) -> str:
        return self._tokens.resume(self._purpose, Position(self._sequence, position))
