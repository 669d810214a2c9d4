"""The hub: what the bus tells this process, handed to those here who wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_jobs.service.worker_registry import WorkerRegistry
from reelhaul_runtime.errors import ReelhaulError

# Newest progress kept in hand; older ones are still on the bus.
_KEPT = 10_000
_MOST_WATCHERS = 20_000


class Listener(Protocol):
    """Is told of one job. What it is told it must not wait in."""

    def progressed(self, notice: ProgressNotice) -> None:
        """A worker's progress, newer than any before."""

    def row_changed(self, revision: int) -> None:
        """The row has *revision* now."""

    def closed(self) -> None:
        """Nothing more comes: the process drains."""


class AllListener(Protocol):
    """Is told of every job."""

    def row_changed(self, job_id: str, tenant: str) -> None:
        """The row changed; *tenant* is empty where that is not known."""

    def closed(self) -> None:
        """Nothing more comes: the process drains."""


class EventHub:
    """Fans out what comes over the bus. Nobody here holds anybody up."""

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        self._all: list[AllListener] = []
        self._newest: OrderedDict[str, ProgressNotice] = OrderedDict()
        self._watchers = 0
        self._closed = False
        #: The workers that were heard of lately.
        self.roll = WorkerRegistry()
        #: Rings when there may be something to dispatch.
        self.dispatch = asyncio.Event()
        #: Ready jobs wait for room: any change may make some.
        self.dispatch_blocked = True

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A watcher's place. OVERLOADED when too many watch, or none may any more."""
        if self._closed or self._watchers >= _MOST_WATCHERS:
            raise ReelhaulError(ErrorReason.OVERLOADED, "this server takes no more watchers now")
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    def listen(self, job_id: str, listener: Listener) -> None:
        """Tell *listener* of the job from now on; it is the only one."""
        self._listeners[job_id] = listener

    def leave(self, job_id: str, listener: Listener) -> None:
        """Tell *listener* of the job no more."""
        if self._listeners.get(job_id) is listener:
            del self._listeners[job_id]

    def listen_all(self, listener: AllListener) -> None:
        """Tell *listener* of every job from now on."""
        self._all.append(listener)

    def leave_all(self, listener: AllListener) -> None:
        """Tell *listener* no more."""
        self._all.remove(listener)

    def progressed(self, notice: ProgressNotice) -> None:
        """A worker's progress came."""
        known = self._newest.get(notice.job_id)
        if known is not None and _order(notice) <= _order(known):
            return
        self._newest[notice.job_id] = notice
        self._newest.move_to_end(notice.job_id)
        if len(self._newest) > _KEPT:
            self._newest.popitem(last=False)
        if listener := self._listeners.get(notice.job_id):
            listener.progressed(notice)

    def row_changed(self, job_id: str, revision: int, tenant: str = "", *, ready: bool = True) -> None:
        """A row changed, here or at another replica. Unless *ready*, the job is none to dispatch."""
        if ready or self.dispatch_blocked:
            self.dispatch.set()
        if listener := self._listeners.get(job_id):
            listener.row_changed(revision)
        for everyone in self._all:
            everyone.row_changed(job_id, tenant)

    def newest(self, job_id: str) -> ProgressNotice | None:
        """The newest progress of *job_id* heard of here."""
        return self._newest.get(job_id)

    def forget(self, job_id: str) -> None:
        """*job_id* has ended: its progress is history."""
        self._newest.pop(job_id, None)

    def close(self) -> None:
        """End all watches: the process drains."""
        self._closed = True
        for listener in self._listeners.values():
            listener.closed()
        for everyone in self._all:
            everyone.closed()


def _order(notice: ProgressNotice) -> tuple[int, int]:
    return notice.epoch, notice.sequence
