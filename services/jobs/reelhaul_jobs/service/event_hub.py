"""Event hub: hands what the bus reports to the watchers, the dispatcher and the worker registry."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, Protocol

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs import metrics
from reelhaul_jobs.model.results import Owner
from reelhaul_jobs.model.wait_reason import WorkerStatus
from reelhaul_jobs.ports.bus import ProgressNotice
from reelhaul_runtime.errors import QuotaExceeded, ReelhaulError

WatchKind = Literal["job", "list"]

# Latest progress notices kept in memory; the bus still has older ones.
_MAX_PROGRESS = 10_000
_MAX_WATCHERS = 20_000
#: Watches per tenant at one replica: half of all, so that one tenant leaves places to the others.
MAX_WATCHES_PER_TENANT = 10_000

# Workers report every ten seconds: two reports may be lost.
_WORKER_TIMEOUT_SECONDS = 30.0
_MAX_WORKERS = 10_000


class JobListener(Protocol):
    """Is called for one job. Its methods must not block."""

    def on_progress(self, notice: ProgressNotice) -> None:
        """Handle a worker's progress, newer than any before."""

    def on_row_change(self, revision: int) -> None:
        """Handle that the row now has *revision*."""

    def on_close(self) -> None:
        """Handle that the process drains: nothing more will come."""


class AllJobsListener(Protocol):
    """Is called for every job. Its methods must not block."""

    def on_row_change(self, job_id: str, tenant: str) -> None:
        """Handle that a row changed; *tenant* is empty where it is unknown."""

    def on_close(self) -> None:
        """Handle that the process drains: nothing more will come."""


class WorkerRegistry:
    """Workers that reported lately. It explains why jobs wait, and decides nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: monotonic seconds."""
        self._clock = clock
        self._reports: dict[str, tuple[WorkerStatus, float]] = {}
        # When workers without slots reported: they drain, or have left.
        self._draining: dict[str, float] = {}

    def record(self, status: WorkerStatus) -> None:
        """Record a worker's report; one without slots removes the worker."""
        self._reports.pop(status.worker, None)
        self._draining.pop(status.worker, None)
        if status.slots > 0:
            self._reports[status.worker] = status, self._clock()
        elif len(self._draining) < _MAX_WORKERS:
            self._draining[status.worker] = self._clock()
        while len(self._reports) > _MAX_WORKERS:
            del self._reports[next(iter(self._reports))]

    def active(self) -> Sequence[WorkerStatus]:
        """Return the latest report of each worker that has not timed out."""
        since = self._clock() - _WORKER_TIMEOUT_SECONDS
        self._reports = {name: report for name, report in self._reports.items() if report[1] > since}
        return [status for status, _ in self._reports.values()]

    def count_draining(self) -> int:
        """Return how many workers reported lately that they take no more work."""
        since = self._clock() - _WORKER_TIMEOUT_SECONDS
        self._draining = {name: time for name, time in self._draining.items() if time > since}
        return len(self._draining)


class EventHub:
    """Fans out events within this process. No listener holds up another."""

    def __init__(self) -> None:
        self._listeners: dict[str, JobListener] = {}
        self._all_listeners: list[AllJobsListener] = []
        # Each with its arrival time, in seconds of the monotonic clock.
        self._progress: OrderedDict[str, tuple[ProgressNotice, float]] = OrderedDict()
        # By tenant; None: services of the suite.
        self._watchers: Counter[Owner] = Counter()
        self._closed = False
        #: The workers that reported lately.
        self.workers = WorkerRegistry()
        #: Is set when there may be something to dispatch.
        self.dispatch_wakeup = asyncio.Event()
        #: Ready jobs wait for a free place in the broker or at their site: any change may free one.
        self.dispatch_blocked = True

    @contextmanager
    def watcher_slot(self, owner: Owner, kind: WatchKind = "job") -> Iterator[None]:
        """Count one watcher of *owner*, of a job or a list, while the block runs.

        Raises OVERLOADED at the limit of all and while the process drains, and QUOTA_EXCEEDED at that of
        a tenant.
        """
        if self._closed or self._watchers.total() >= _MAX_WATCHERS:
            raise ReelhaulError(ErrorReason.OVERLOADED, "this server accepts no more watchers now")
        if owner is not None and self._watchers[owner] >= MAX_WATCHES_PER_TENANT:
            text = f"a tenant has at most {MAX_WATCHES_PER_TENANT} watches at one server: end others first"
            limit = MAX_WATCHES_PER_TENANT
            raise QuotaExceeded("watches", text, subject=f"tenants/{owner}", limit=limit)
        self._watchers[owner] += 1
        gauge = metrics.WATCHERS.labels(kind)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()
            self._watchers[owner] -= 1
            if not self._watchers[owner]:
                del self._watchers[owner]

    def subscribe(self, job_id: str, listener: JobListener) -> None:
        """Call *listener* for the job from now on, in place of any other."""
        self._listeners[job_id] = listener

    def unsubscribe(self, job_id: str, listener: JobListener) -> None:
        """Stop calling *listener* for the job."""
        if self._listeners.get(job_id) is listener:
            del self._listeners[job_id]

    def subscribe_all(self, listener: AllJobsListener) -> None:
        """Call *listener* for every job from now on."""
        self._all_listeners.append(listener)

    def unsubscribe_all(self, listener: AllJobsListener) -> None:
        """Stop calling *listener*."""
        self._all_listeners.remove(listener)

    def publish_progress(self, notice: ProgressNotice) -> None:
        """Publish a worker's progress, unless a newer one was published before."""
        latest = self.latest_progress(notice.job_id)
        if latest is not None and (notice.epoch, notice.sequence) <= (latest.epoch, latest.sequence):
            return
        self._progress[notice.job_id] = notice, time.monotonic()
        self._progress.move_to_end(notice.job_id)
        if len(self._progress) > _MAX_PROGRESS:
            self._progress.popitem(last=False)
        if listener := self._listeners.get(notice.job_id):
            listener.on_progress(notice)

    def publish_row_change(self, job_id: str, revision: int, tenant: str = "", *, ready: bool = True) -> None:
        """Publish that a row changed, here or at another replica. *ready*: the job may be dispatched."""
        if ready or self.dispatch_blocked:
            self.dispatch_wakeup.set()
        if listener := self._listeners.get(job_id):
            listener.on_row_change(revision)
        for all_listener in self._all_listeners:
            all_listener.on_row_change(job_id, tenant)

    def record_worker(self, status: WorkerStatus) -> None:
        """Record a worker's report."""
        self.workers.record(status)

    def latest_progress(self, job_id: str) -> ProgressNotice | None:
        """Return the latest progress of *job_id* that was handed on here."""
        latest = self._progress.get(job_id)
        return latest[0] if latest else None

    def progress_age(self, job_id: str) -> timedelta | None:
        """Return the time since the latest progress of *job_id* arrived here; None without progress."""
        latest = self._progress.get(job_id)
        return timedelta(seconds=time.monotonic() - latest[1]) if latest else None

    def drop_progress(self, job_id: str) -> None:
        """Drop the progress of *job_id*, which has ended."""
        self._progress.pop(job_id, None)

    def close(self) -> None:
        """End all watches: the process drains."""
        self._closed = True
        for listener in self._listeners.values():
            listener.on_close()
        for all_listener in self._all_listeners:
            all_listener.on_close()
