"""A bounded queue of job changes for one watcher of many jobs: only the latest change of each job."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from reelhaul_jobs.model.watch import JobChange

#: Jobs that a watcher may be behind; beyond that it must list again.
MAX_PENDING = 1_000


class ConflatingQueue:
    """Changes that one watcher is still to receive."""

    def __init__(self, matches: Callable[[JobChange], bool]) -> None:
        """*matches*: whether the watcher wants a change."""
        self._matches = matches
        self._pending: OrderedDict[str, JobChange] = OrderedDict()
        self.wakeup = asyncio.Event()
        #: The watcher fell too far behind: what was pending is lost.
        self.overflowed = False
        #: The process drains: nothing more will be offered.
        self.closed = False

    def offer(self, change: JobChange) -> None:
        """Queue *change* if the watcher wants it, in place of an earlier change of the same job."""
        if not self._matches(change):
            return
        # At the end: its position must not cover changes that are still pending before it.
        self._pending.pop(change.job.id, None)
        self._pending[change.job.id] = change
        if len(self._pending) > MAX_PENDING:
            self._pending.clear()
            self.overflowed = True
        self.wakeup.set()

    def take(self) -> JobChange | None:
        """Remove and return the next change; None where none is pending."""
        return self._pending.popitem(last=False)[1] if self._pending else None

    def close(self) -> None:
        """Accept nothing more, and wake the watcher."""
        self.closed = True
        self.wakeup.set()
