"""Loops: a step again and again, by one replica at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_runtime.errors import Unavailable

log = logging.getLogger(__name__)

#: How long a leader leads without renewing; what it does after that is harmless, only double.
#: A killed one is replaced after so long, and the quarter of it that others ask in.
LEADING = timedelta(seconds=4)

# Between two steps, on the whole: what is asked for meanwhile shares the next one. The dispatcher
# publishes for several times as long ahead, unless the workers were faster.
_PAUSE, _WHILE_MORE = 0.1, 0.02
# So many steps at once, after a while in which they could have been: a lone job waits for no company.
_AT_ONCE = 5


@dataclass(frozen=True, slots=True)
class Loop:
    """A named step, and the seconds that it rests unless *bell* rings."""

    name: str
    #: Does one round; True asks for another soon.
    step: Callable[[], Awaitable[bool]]
    rest: float
    bell: asyncio.Event | None = None
    #: What a new leader does first.
    on_leadership_gained: Callable[[], Awaitable[None]] | None = None


class Leader:
    """Whether this replica leads a loop: asked of the rows now and then, not at each step."""

    def __init__(self, queue: QueueStore, loop: str, holder: str, now: Clock) -> None:
        self._queue = queue
        self._loop = loop
        self._holder = holder
        self._now = now
        self._leads = False
        self._ask_at = 0.0
        #: Whether this replica leads since its last step.
        self.new = False

    async def leads(self) -> bool:
        """Whether this replica may do the next step."""
        if time.monotonic() >= self._ask_at:
            led, self._leads = self._leads, False
            self._leads = await self._queue.acquire_leadership(self._loop, self._holder, self._now(), LEADING)
            self.new = self._leads and (self.new or not led)
            self._ask_at = time.monotonic() + LEADING.total_seconds() / 4
        return self._leads

    async def resign(self) -> None:
        """Let another replica lead at once."""
        if self._leads:
            await self._queue.release_leadership(self._loop, self._holder)


class _Pace:
    """Keeps steps apart: one in ``_PAUSE`` seconds, but those that a quiet while has saved follow at once."""

    def __init__(self) -> None:
        self._paid = time.monotonic()

    def pause(self) -> float:
        """Seconds until the next step, one being done now."""
        now = time.monotonic()
        saved = max(self._paid, now - _AT_ONCE * _PAUSE)
        # Steps that had more to do follow faster than that: they leave no debt.
        self._paid = min(saved, now) + _PAUSE
        return max(0.0, self._paid - now)


async def run(loop: Loop, leader: Leader) -> None:
    """Do *loop*'s steps while *leader* leads, until cancelled. Failures are logged and tried again."""
    this = asyncio.current_task()
    assert this is not None
    pace = _Pace()
    try:
        while True:
            more = await _stepped(loop, leader)
            # Until Python 3.12 wait_for, and nats-py by it, may swallow a cancellation (CPython 86296).
            if this.cancelling():
                return
            pause = pace.pause()
            await asyncio.sleep(min(_WHILE_MORE, pause) if more else pause)
            if not more:
                await _rest(loop)
    finally:
        with suppress(Exception):
            await asyncio.wait_for(asyncio.shield(leader.resign()), 2)


async def _stepped(loop: Loop, leader: Leader) -> bool:
    if loop.bell is not None:
        loop.bell.clear()
    try:
        if not await leader.leads():
            return False
        if leader.new and loop.on_leadership_gained is not None:
            await loop.on_leadership_gained()
        leader.new = False
        return await loop.step()
    except Unavailable as error:
        log.warning("step put off", extra={"loop": loop.name, "cause": error.text})
    except Exception:
        log.exception("step failed", extra={"loop": loop.name})
    await asyncio.sleep(0.5)
    return False


async def _rest(loop: Loop) -> None:
    if loop.bell is None:
        await asyncio.sleep(loop.rest)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(loop.rest):
            await loop.bell.wait()
