"""The hub: what the bus tells this process, handed to those here who wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.ports import Notice
from reelhaul_runtime.errors import ReelhaulError

# Newest progress kept in hand; older ones are still on the bus.
_KEPT = 10_000
_MOST_WATCHERS = 20_000


class Mailbox:
    """One watcher's: a slot for the newest progress, and the newest revision heard of."""

    def __init__(self) -> None:
        self._notice: Notice | None = None
        self._dropped = 0
        self._progress_wakes = True
        self._bell = asyncio.Event()
        #: The highest revision that was told; 0 before the first.
        self.revision = 0
        #: No more will come: the process drains.
        self.closed = False

    def offer(self, notice: Notice) -> None:
        """Put *notice* in the slot, if it is newer than what is there."""
        if self._notice is not None:
            if _order(notice) <= _order(self._notice):
                return
            self._dropped += 1
        self._notice = notice
        if self._progress_wakes:
            self._bell.set()

    def tell(self, revision: int) -> None:
        """The row has *revision* now."""
        self.revision = max(self.revision, revision)
        self._bell.set()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._bell.set()

    @property
    def notice(self) -> Notice | None:
        """The newest progress, left in its slot."""
        return self._notice

    def take(self) -> tuple[Notice | None, int]:
        """The newest progress, out of its slot, and how many older ones it displaced."""
        taken = self._notice, self._dropped
        self._notice, self._dropped = None, 0
        return taken

    async def wait(self, seconds: float, *, progress: bool) -> None:
        """Return when something came, at the latest after *seconds*; progress counts if asked so."""
        self._progress_wakes = progress
        if not (progress and self._notice is not None):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._bell.wait()
        self._bell.clear()


class Hub:
    """Fans out what comes over the bus to mailboxes. Slow readers hold nobody up."""

    def __init__(self) -> None:
        self._boxes: dict[str, set[Mailbox]] = defaultdict(set)
        self._newest: OrderedDict[str, Notice] = OrderedDict()
        self._watchers = 0
        self._closed = False
        #: Rings when any row changed: the dispatcher listens.
        self.changed = asyncio.Event()

    @contextmanager
    def mailbox(self, job_id: str) -> Iterator[Mailbox]:
        """A mailbox for what happens to *job_id*. OVERLOADED when too many watch."""
        if self._closed or self._watchers >= _MOST_WATCHERS:
            raise ReelhaulError(ErrorReason.OVERLOADED, "this server takes no more watchers now")
        box = Mailbox()
        self._boxes[job_id].add(box)
        self._watchers += 1
        try:
            yield box
        finally:
            self._watchers -= 1
            self._boxes[job_id].discard(box)
            if not self._boxes[job_id]:
                del self._boxes[job_id]

    def progressed(self, notice: Notice) -> None:
        """A worker's progress came."""
        known = self._newest.get(notice.job_id)
        if known is not None and _order(notice) <= _order(known):
            return
        self._newest[notice.job_id] = notice
        self._newest.move_to_end(notice.job_id)
        if len(self._newest) > _KEPT:
            self._newest.popitem(last=False)
        for box in self._boxes.get(notice.job_id, ()):
            box.offer(notice)

    def row_changed(self, job_id: str, revision: int) -> None:
        """A row changed, here or at another replica."""
        self.changed.set()
        for box in self._boxes.get(job_id, ()):
            box.tell(revision)

    def newest(self, job_id: str) -> Notice | None:
        """The newest progress of *job_id* heard of here."""
        return self._newest.get(job_id)

    def forget(self, job_id: str) -> None:
        """*job_id* has ended: its progress is history."""
        self._newest.pop(job_id, None)

    def close(self) -> None:
        """End all watches: the process drains."""
        self._closed = True
        for boxes in self._boxes.values():
            for box in boxes:
                box.close()


def _order(notice: Notice) -> tuple[int, int]:
    return notice.epoch, notice.sequence
