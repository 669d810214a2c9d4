"""The bell: wakes one watcher, at once for a state, at its pace for progress."""

from __future__ import annotations

import asyncio


class Wakeup:
    """One watcher's. Times are the loop's.

    A watcher costs a future for each wake and a timer for each silence, not for each message.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._sleeper: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._quiet = 0.0

    def notify(self) -> None:
        """Wake the watcher, or keep it from falling asleep."""
        self._rung = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def notify_progress(self) -> None:
        """There is progress: wake the watcher, but not before its pace allows."""
        if self._sleeper is None:
            # It looks by itself before it sleeps.
            return
        if self._loop.time() >= self._quiet:
            self.notify()
        else:
            self._ring_by(self._quiet)

    async def wait(self, ends: float, quiet: float, *, stirred: bool) -> None:
        """Return when it rings; at *ends* at the latest, and with progress not before *quiet*.

        *stirred* says that progress is waiting already. It may return early and for nothing.
        """
        if not self._rung and not (stirred and self._loop.time() >= quiet):
            self._quiet = quiet
            self._ring_by(min(ends, quiet) if stirred else ends)
            self._sleeper = self._loop.create_future()
            try:
                await self._sleeper
            finally:
                self._sleeper = None
        self._rung = False

    def close(self) -> None:
        """It rings no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring_by(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm.when() <= when:
                # Early is no harm: whoever wakes for nothing sets it again.
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        self.notify()
