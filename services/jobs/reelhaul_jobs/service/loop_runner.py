"""Loop runner: repeats the step of a background loop at one replica at a time, led through a row."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from reelhaul_jobs import metrics
from reelhaul_jobs.ports.queue import QueueStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.work_signal import WorkSignal
from reelhaul_runtime.errors import Unavailable
from reelhaul_runtime.logs import Outage

log = logging.getLogger(__name__)

#: How long a replica leads a loop without renewing. What it does after that is done twice, and harmless.
#: A killed leader is replaced after this time and at most a quarter of it, in which the others ask.
LEADERSHIP = timedelta(seconds=4)

# Average seconds between two steps: requests that arrive meanwhile share the next step. The dispatcher
# publishes several times as far ahead, unless the workers were faster.
_STEP_SECONDS = 0.1
_SECONDS_WHILE_MORE = 0.02
# Steps that may follow each other at once after an idle time, so that a single job need not wait.
_BURST = 5


@dataclass(frozen=True, slots=True)
class Loop:
    """A named step, and the seconds between two steps unless *wakeup* is set."""

    name: str
    #: Does one round; True asks for another one soon.
    step: Callable[[], Awaitable[bool]]
    interval: float
    wakeup: asyncio.Event | None = None
    #: What a new leader does first.
    on_leadership_gained: Callable[[], Awaitable[None]] | None = None


class Leadership:
    """Whether this replica leads a loop; the row is read now and then, not at each step."""

    def __init__(self, queue: QueueStore, loop: str, holder: str, now: Clock) -> None:
        self._queue = queue
        self._loop = loop
        self._holder = holder
        self._now = now
        self._is_leader = False
        self._gauge = metrics.LOOP_LEADER.labels(loop)
        self._gauge.set(0)
        self._ask_at = 0.0
        #: Whether this replica became the leader after its last step.
        self.newly_acquired = False

    async def is_leader(self) -> bool:
        """Return whether this replica may do the next step; renew the leadership where that is due."""
        if time.monotonic() >= self._ask_at:
            was_leader, self._is_leader = self._is_leader, False
            self._gauge.set(0)
            self._is_leader = await self._queue.acquire_leadership(
                self._loop, self._holder, self._now(), LEADERSHIP
            )
            self._gauge.set(self._is_leader)
            self.newly_acquired = self._is_leader and (self.newly_acquired or not was_leader)
            self._ask_at = time.monotonic() + LEADERSHIP.total_seconds() / 4
        return self._is_leader

    async def release(self) -> None:
        """Let another replica lead at once."""
        self._gauge.set(0)
        if self._is_leader:
            await self._queue.release_leadership(self._loop, self._holder)


class SoleLeadership:
    """Leadership of the only replica that there is: no row is read."""

    def __init__(self, loop: str) -> None:
        self._gauge = metrics.LOOP_LEADER.labels(loop)
        self._gauge.set(1)
        self.newly_acquired = True

    async def is_leader(self) -> bool:
        """Return True."""
        return True

    async def release(self) -> None:
        """Record that the loop has ended."""
        self._gauge.set(0)


class LoopRunner:
    """Repeats one loop's step while this replica leads it."""

    def __init__(
        self, loop: Loop, leadership: Leadership | SoleLeadership, signal: WorkSignal | None = None
    ) -> None:
        """*signal* knows when there is nothing to do; None: the step is repeated at the loop's interval."""
        self._loop = loop
        self._leadership = leadership
        self._wakeup = loop.wakeup or asyncio.Event()
        self._has_signal = signal is not None
        if signal is not None:
            signal.subscribe(self._wakeup)
        self._failed = False
        self._outage = Outage()
        # When the next step is due, if steps came at the average rate.
        self._next_due = time.monotonic()
        self._last_success = metrics.LOOP_LAST_SUCCESS.labels(loop.name)
        # So that a loop that never succeeds is noticed.
        self._last_success.set_to_current_time()

    async def run(self) -> None:
        """Repeat the step until cancelled. Failures are logged, and the step is tried again."""
        this = asyncio.current_task()
        assert this is not None
        try:
            while True:
                more = await self._step()
                # Before Python 3.12 wait_for, and nats-py through it, may swallow a cancellation (CPython
                # issue 86296).
                if this.cancelling():
                    return
                pause = self._pause()
                await asyncio.sleep(min(_SECONDS_WHILE_MORE, pause) if more else pause)
                if not more:
                    await self._rest()
        finally:
            with suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self._leadership.release()), 2)

    async def _step(self) -> bool:
        loop, leadership = self._loop, self._leadership
        self._wakeup.clear()
        self._failed = False
        try:
            if not await leadership.is_leader():
                return False
            if leadership.newly_acquired and loop.on_leadership_gained is not None:
                await loop.on_leadership_gained()
            leadership.newly_acquired = False
            more = await loop.step()
        except Unavailable as error:
            if (level := self._outage.level()) is not None:
                log.log(level, "step put off", extra={"loop": loop.name, "cause": error.text})
        except Exception:
            log.exception("step failed", extra={"loop": loop.name})
        else:
            self._outage.end()
            self._last_success.set_to_current_time()
            return more
        self._failed = True
        await asyncio.sleep(0.5)
        return False

    def _pause(self) -> float:
        """Return the seconds until the next step: none while an idle time has saved up steps."""
        now = time.monotonic()
        due = max(self._next_due, now - _BURST * _STEP_SECONDS)
        # Steps that had more to do follow faster than the average rate: they leave no debt.
        self._next_due = min(due, now) + _STEP_SECONDS
        return max(0.0, self._next_due - now)

    async def _rest(self) -> None:
        """Wait while there is nothing to do, or for the interval if that is unknown."""
        knows = self._has_signal and not self._failed
        if self._loop.wakeup is None:
            await asyncio.sleep(self._loop.interval)
            if knows:
                await self._wakeup.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(None if knows else self._loop.interval):
                await self._wakeup.wait()
