"""Watched jobs: each is read and turned into messages once for all watchers of this process."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import wait_reason
from reelhaul_jobs.model.job import Event, Job
from reelhaul_jobs.model.results import JobView
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.wait_reason import Wait
from reelhaul_jobs.model.watch import Message, Snapshot
from reelhaul_jobs.ports.bus import JobBus, ProgressNotice
from reelhaul_jobs.ports.jobs import JobStore
from reelhaul_jobs.ports.services import Clock
from reelhaul_jobs.service.event_hub import EventHub
from reelhaul_jobs.service.job_views import JobViews
from reelhaul_jobs.service.watch import limits
from reelhaul_jobs.service.watch.resume_tokens import END_COUNTER, Position, ResumeTokens
from reelhaul_jobs.service.watch.wakeup import WakeupGroup
from reelhaul_runtime.errors import NotFound, ReelhaulError

log = logging.getLogger(__name__)

#: More state changes than this are sent as one snapshot, so that memory per job is bounded.
MAX_EVENTS = 64

# Rows compared by one query.
_PAGE = 500


class WatchedJob:
    """One watched job: its row, its view, its latest events and its latest progress."""

    job: Job
    view: JobView

    def __init__(
        self,
        job_id: str,
        store: JobStore,
        views: JobViews,
        bus: JobBus,
        hub: EventHub,
        tokens: ResumeTokens,
        now: Clock,
    ) -> None:
        self._id = job_id
        self._store, self._views, self._bus, self._hub = store, views, bus, hub
        self._tokens, self._now = tokens, now
        self.wakeups = WakeupGroup()
        #: Progress updates received so far; a watcher conflates those between two of its messages.
        self.progress_count = 0
        #: When the latest of them arrived, in seconds of the event loop's clock.
        self.progress_time = 0.0
        #: The process drains: nothing more will be sent.
        self.draining = False
        #: The job was deleted.
        self.deleted = False
        self._notice: ProgressNotice | None = None
        self._events: deque[Message] = deque(maxlen=MAX_EVENTS)
        # All events after this revision are in _events.
        self._events_after = 0
        self._progress: tuple[ProgressNotice, int, Message] | None = None
        # The latest message that a change of the view caused, without an event or progress of the worker.
        self._update: Message | None = None
        self._snapshot: tuple[JobView, ProgressNotice | None, Message] | None = None
        self._scheduled_read: asyncio.Task[None] | None = None
        self._read_lock = asyncio.Lock()

    def on_progress(self, notice: ProgressNotice) -> None:
        """Store the worker's progress, and wake the watchers."""
        self._notice = notice
        if notice.epoch > self.job.epoch:
            self.refresh_soon()
        if self.job.kind is Kind.EXPANSION:
            # The progress of its jobs is part of the next view.
            return
        self._update = None
        self._notify_progress()

    def on_row_change(self, revision: int) -> None:
        """Read the job again if *revision* is newer than what is known."""
        if revision > self.job.revision:
            self.refresh_soon()

    def on_close(self) -> None:
        """Let the watchers end: the process drains."""
        self.draining = True
        self.wakeups.notify()

    async def start(self) -> None:
        """Subscribe and read the job for the first time. ``NotFound`` if it does not exist."""
        self.job = await self._store.get(self._id)
        self.view = await self._views.view(self.job)
        self._events_after = self.job.revision
        self._hub.subscribe(self._id, self)
        # Catches changes between the read and the subscription.
        await self.refresh()
        if self.job.is_leased:
            self._notice = self._hub.latest_progress(self._id) or await self._bus.get_last_progress(self._id)

    @property
    def has_ended(self) -> bool:
        """Whether the job, and for an expansion all of its jobs, have ended."""
        return self.view.has_ended

    async def refresh_view(self) -> None:
        """Build the view of the current row again, and wake the watchers if it has changed."""
        if self.has_ended:
            return
        job, view = self.job, await self._views.view(self.job)
        if job.is_leased and view.wait is not None:
            # The lease may have been renewed since the row was read.
            fresh = await self._store.get(self._id)
            if fresh.revision != job.revision:
                self.refresh_soon()
                return
            job, view = fresh, await self._views.view(fresh)
        if self.job.revision == job.revision:
            self.job = job
            self._set_view(view)

    async def refresh(self) -> None:
        """Read the row as it is now; simultaneous callers share one read."""
        await asyncio.shield(self._schedule_read())

    def refresh_soon(self) -> None:
        """Read the row in the background, and wake the watchers if it has changed."""
        self._schedule_read()

    def events_after(self, revision: int) -> Sequence[Message] | None:
        """Return the state changes after *revision* that are in memory; None where some are not."""
        if revision < self._events_after:
            return None
        return [message for message in self._events if message.sequence >> 32 > revision]

    async def load_events_after(self, revision: int) -> Sequence[Message] | None:
        """Read the state changes after *revision* from the store; None where there are too many."""
        last = self.job.revision
        events = await self._store.list_events(self._id, after=revision, limit=MAX_EVENTS + 1)
        if len(events) > MAX_EVENTS:
            return None
        return [self._event_message(event) for event in events if event.revision <= last]

    def latest_progress(self) -> Message | None:
        """Return the latest progress of the present lease, or a change of why the job waits."""
        if self._update is not None and self._update.sequence >> 32 == self.job.revision:
            return self._update
        notice = self._current_notice()
        if notice is None or self.job.kind is Kind.EXPANSION:
            return None
        cached, revision = self._progress, self.job.revision
        if cached is None or cached[0] is not notice or cached[1] != revision:
            sequence = revision << 32 | min(notice.sequence, END_COUNTER - 1)
            cached = self._progress = notice, revision, self._message(sequence, notice.progress)
        return cached[2]

    def snapshot(self, sequence: int, *, reset: bool) -> Message:
        """Return the whole job as it is now."""
        view, notice = self.view, self._notice
        if self._snapshot is not None and not reset:
            cached_view, cached_notice, message = self._snapshot
            if cached_view is view and cached_notice is notice and message.sequence == sequence:
                return message
        shown, current = view.job, self._current_notice()
        if current and self._update is None and shown.kind is not Kind.EXPANSION:
            shown = shown.replace_fields(progress=current.progress)
        body = Snapshot(shown, reset=reset, terminal=self.has_ended, wait=view.wait, children=view.children)
        message = self._message(sequence, body)
        if not reset:
            self._snapshot = view, notice, message
        return message

    def resume_token(self, sequence: int) -> str:
        """Return the resume_token of a position, as of now."""
        return self._tokens.create(self._id, Position(sequence, self._now()))

    def _current_notice(self) -> ProgressNotice | None:
        """Return the latest progress notice, if it belongs to the present lease."""
        notice, job = self._notice, self.job
        return notice if notice is not None and job.is_leased and notice.epoch == job.epoch else None

    def _schedule_read(self) -> asyncio.Task[None]:
        if self._scheduled_read is None:
            self._scheduled_read = asyncio.create_task(self._read())
            self._scheduled_read.add_done_callback(_log_failure)
        return self._scheduled_read

    async def _read(self) -> None:
        async with self._read_lock:
            # Whoever asks from now on needs a later read: this one may see an older row.
            self._scheduled_read = None
            before = self.job
            try:
                job = await self._store.get(self._id)
            except NotFound:
                job, self.deleted = _as_deleted(before), True
            if job.revision <= before.revision:
                return
            view = JobView.from_row(job) if self.deleted else await self._views.view(job)
            events = await self._store.list_events(self._id, after=before.revision, limit=MAX_EVENTS + 1)
            self._apply(job, view, events)
        self.wakeups.notify()

    def _apply(self, job: Job, view: JobView, events: Sequence[Event]) -> None:
        self.job, previous = job, self.view
        self.view = view
        if job.kind is Kind.EXPANSION and view.job.progress != previous.job.progress:
            self._publish_update(view)
        if len(events) > MAX_EVENTS:
            self._events.clear()
            self._events_after = job.revision
        else:
            for event in events:
                # Later events belong to a row that was not read yet.
                if event.revision <= job.revision:
                    if len(self._events) == MAX_EVENTS:
                        self._events_after = self._events[0].sequence >> 32
                    self._events.append(self._event_message(event))

    def _set_view(self, view: JobView) -> None:
        """Set the view of the current row to *view*, and publish the difference as a message."""
        before = self.view
        if view.has_ended:
            self.view = view
            self.wakeups.notify()
            return
        if view.job.kind is Kind.EXPANSION:
            has_changed = view.job.progress != before.job.progress
        else:
            reasons = [wait.reason if wait else None for wait in (before.wait, view.wait)]
            has_changed = reasons[0] != reasons[1]
        if has_changed:
            self.view = view
            self._publish_update(view)

    def _publish_update(self, view: JobView) -> None:
        """Publish *view* as a message: progress of a lost worker or of children, or a wait reason."""
        job = view.job
        body: Event | media_pb2.Progress | None = None
        if job.kind is Kind.EXPANSION or (job.is_leased and view.wait is not None):
            body = job.progress
        elif not job.is_leased:
            body = Event(
                revision=job.revision,
                time=self._now(),
                old_state=job.state,
                state=job.state,
                charged=job.charged,
                error=job.error,
                next_attempt_time=job.next_attempt_time,
            )
        # None if the worker has recovered: the next message is its progress.
        self._update = None if body is None else self._message(self._next_sequence(job), body, view.wait)
        self._notify_progress()

    def _next_sequence(self, job: Job) -> int:
        """Return a sequence above those sent since the latest change of the row, by any server."""
        if job.is_leased and job.kind is not Kind.EXPANSION:
            counter = (self._notice.sequence if self._notice else 0) + 1
        else:
            # Without progress of a worker, the sequence is the time in tenths of a second.
            counter = int((self._now() - job.update_time) / timedelta(milliseconds=100)) + 1
        if self._update is not None and self._update.sequence >> 32 == job.revision:
            counter = max(counter, (self._update.sequence & END_COUNTER) + 1)
        return job.revision << 32 | min(max(counter, 1), END_COUNTER - 1)

    def _notify_progress(self) -> None:
        self.progress_count += 1
        self.progress_time = asyncio.get_running_loop().time()
        self.wakeups.notify_progress()

    def _event_message(self, event: Event) -> Message:
        sequence, wait = event.revision << 32, wait_reason.explain_event(event)
        if event.state is self.job.state and event.revision == self.job.revision:
            wait = self.view.wait
        return Message(sequence, self.resume_token(sequence), event.time, event, wait)

    def _message(
        self, sequence: int, body: Snapshot | Event | media_pb2.Progress, wait: Wait | None = None
    ) -> Message:
        now = self._now()
        return Message(sequence, self._tokens.create(self._id, Position(sequence, now)), now, body, wait)


@dataclass(slots=True)
class _Entry:
    job: WatchedJob
    started: asyncio.Task[None]
    watchers: int = 0


class WatchedJobs:
    """The jobs that are watched here: each is opened for its first watcher and closed after its last.

    Every few seconds their rows are compared, to find changes whose notification was lost. Every second their
    views are refreshed, to find changes that no row records.
    """

    def __init__(
        self,
        store: JobStore,
        views: JobViews,
        bus: JobBus,
        hub: EventHub,
        tokens: ResumeTokens,
        now: Clock,
    ) -> None:
        self._store, self._views, self._bus, self._hub = store, views, bus, hub
        self._tokens, self._now = tokens, now
        self._entries: dict[str, _Entry] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def open(self, job_id: str) -> AsyncIterator[WatchedJob]:
        """Yield the watched job, as of now or later. ``NotFound`` if it does not exist."""
        entry = self._join(job_id)
        try:
            already_started = entry.started.done()
            await asyncio.shield(entry.started)
            if already_started:
                await entry.job.refresh()
            if entry.job.deleted:
                raise NotFound(f"jobs/{job_id}")
            yield entry.job
        finally:
            self._leave(job_id, entry)

    def _join(self, job_id: str) -> _Entry:
        entry = self._entries.get(job_id)
        if entry is None:
            job = WatchedJob(job_id, self._store, self._views, self._bus, self._hub, self._tokens, self._now)
            entry = _Entry(job, asyncio.create_task(job.start()))
            # Watchers that wait get the failure; without any, nobody needs it.
            entry.started.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._entries[job_id] = entry
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._compare_all()),
                asyncio.create_task(self._refresh_all_views()),
            ]
            for task in self._tasks:
                task.add_done_callback(_log_failure)
        entry.watchers += 1
        return entry

    def _leave(self, job_id: str, entry: _Entry) -> None:
        entry.watchers -= 1
        failed = entry.started.done() and not _succeeded(entry.started)
        if (failed or not entry.watchers) and self._entries.get(job_id) is entry:
            del self._entries[job_id]
        if not entry.watchers:
            entry.started.cancel()
            self._hub.unsubscribe(job_id, entry.job)
        if not self._entries:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    async def _compare_all(self) -> None:
        while True:
            await asyncio.sleep(limits.REREAD_SECONDS)
            job_ids = list(self._entries)
            try:
                for start in range(0, len(job_ids), _PAGE):
                    await self._compare(job_ids[start : start + _PAGE])
            except ReelhaulError as error:
                log.warning("watched jobs could not be compared", extra={"cause": repr(error)})

    async def _refresh_all_views(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            for entry in list(self._entries.values()):
                if not _succeeded(entry.started):
                    continue
                try:
                    await entry.job.refresh_view()
                except ReelhaulError as error:
                    log.warning(
                        "the view of a watched job could not be refreshed", extra={"cause": repr(error)}
                    )
            spent = clock() - started
            await asyncio.sleep(max(limits.VIEW_REFRESH_SECONDS, limits.VIEW_REFRESH_PAUSE_RATIO * spent))

    async def _compare(self, job_ids: list[str]) -> None:
        revisions = await self._store.get_revisions(job_ids)
        for job_id in job_ids:
            entry = self._entries.get(job_id)
            if entry is None or not _succeeded(entry.started):
                continue
            if revisions.get(job_id) != entry.job.job.revision:
                entry.job.refresh_soon()


def _succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _as_deleted(job: Job) -> Job:
    """Return the last state that watchers of a deleted *job* get."""
    if job.state.is_terminal:
        return job.replace_fields(delivery_time=None)
    return job.replace_fields(state=State.CANCELLED, revision=job.revision + 1)


def _log_failure(read: asyncio.Task[None]) -> None:
    """Log a failed read: callers that wait get it too, and the next comparison reads again."""
    if not read.cancelled() and (error := read.exception()):
        expected = isinstance(error, ReelhaulError)
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "a watched job could not be read",
            exc_info=None if expected else error,
            extra={"cause": repr(error)},
        )
