"""Wakeups of watchers: at once for a state change, for progress at most once per interval of the watcher."""

from __future__ import annotations

import asyncio

# Waking this many takes a few milliseconds; no other call to this process waits longer than that.
_CHUNK = 50


class Wakeup:
    """Wakes one watcher. All times are in seconds of the event loop's clock.

    A watcher costs one future per wait and one timer per pause, not one per message.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._notified = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._progress_due = 0.0

    def notify(self) -> None:
        """Wake the watcher, or make its next wait return at once."""
        self._notified = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def notify_progress(self) -> None:
        """Wake the watcher for progress, but not before its next progress is due."""
        if self._waiter is None:
            # The watcher checks for progress before it waits.
            return
        if self._loop.time() >= self._progress_due:
            self.notify()
        else:
            self._notify_by(self._progress_due)

    async def wait(self, deadline: float, progress_due: float, *, has_progress: bool) -> None:
        """Return when notified, at *deadline* at the latest, and for progress not before *progress_due*.

        *has_progress*: progress is already waiting to be sent. Spurious early returns are possible.
        """
        if not self._notified and not (has_progress and self._loop.time() >= progress_due):
            self._progress_due = progress_due
            self._notify_by(min(deadline, progress_due) if has_progress else deadline)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._notified = False

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notify_by(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                # Waking early is harmless: the watcher then sets the timer again.
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.notify()


class WakeupGroup:
    """Wakes all watchers of one job, a few at a time so that other tasks run in between.

    Notifications that arrive during a round are merged into one further round.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._members: set[Wakeup] = set()
        # The round in progress: who is left to be woken, and whether only for progress.
        self._pending: list[Wakeup] = []
        self._progress_only = True
        # Whether another round follows, and whether only for progress.
        self._again = False
        self._again_progress_only = True

    def add(self, wakeup: Wakeup) -> None:
        """Wake *wakeup* from now on."""
        self._members.add(wakeup)

    def discard(self, wakeup: Wakeup) -> None:
        """Stop waking *wakeup*."""
        self._members.discard(wakeup)

    def notify(self) -> None:
        """Wake all members."""
        self._start_round(progress_only=False)

    def notify_progress(self) -> None:
        """Wake each member for progress when its next progress is due."""
        self._start_round(progress_only=True)

    def _start_round(self, *, progress_only: bool) -> None:
        if self._pending:
            self._again = True
            self._again_progress_only = self._again_progress_only and progress_only
            return
        self._pending, self._progress_only = list(self._members), progress_only
        self._wake_chunk()

    def _wake_chunk(self) -> None:
        chunk = self._pending[-_CHUNK:]
        del self._pending[-_CHUNK:]
        for wakeup in chunk:
            if self._progress_only:
                wakeup.notify_progress()
            else:
                wakeup.notify()
        if self._pending:
            self._loop.call_soon(self._wake_chunk)
        elif self._again:
            self._pending, self._progress_only = list(self._members), self._again_progress_only
            self._again, self._again_progress_only = False, True
            self._loop.call_soon(self._wake_chunk)
