"""The bells of all who watch one job: rung a few at a time, so that others have their turn in between."""

from __future__ import annotations

import asyncio

from reelhaul_jobs.service.watch.wakeup import Wakeup

# To tell so many takes a few milliseconds; no call to this server waits longer for a crowd.
_AT_ONCE = 50


class WakeupGroup:
    """Wakes everyone; who is woken while a round goes on is so by the next one, not twice."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bells: set[Wakeup] = set()
        # Of the round that goes on: who is left, and whether it rings or only stirs.
        self._left: list[Wakeup] = []
        self._loud = False
        # Whether another round follows, and which.
        self._again = False
        self._again_loud = False

    def add(self, bell: Wakeup) -> None:
        """Wake one more from now on."""
        self._bells.add(bell)

    def discard(self, bell: Wakeup) -> None:
        """Wake this one no more."""
        self._bells.discard(bell)

    def ring(self) -> None:
        """Wake all, each as soon as its turn comes."""
        self._begin(loud=True)

    def stir(self) -> None:
        """There is progress: wake each when its pace allows."""
        self._begin(loud=False)

    def _begin(self, *, loud: bool) -> None:
        if self._left:
            self._again, self._again_loud = True, self._again_loud or loud
            return
        self._left, self._loud = list(self._bells), loud
        self._wake_some()

    def _wake_some(self) -> None:
        some = self._left[-_AT_ONCE:]
        del self._left[-_AT_ONCE:]
        for bell in some:
            if self._loud:
                bell.notify()
            else:
                bell.notify_progress()
        if self._left:
            self._loop.call_soon(self._wake_some)
        elif self._again:
            self._left, self._loud = list(self._bells), self._again_loud
            self._again = self._again_loud = False
            self._loop.call_soon(self._wake_some)
