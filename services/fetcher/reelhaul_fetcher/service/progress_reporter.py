"""Progress reporter: listens to one fetch, publishes its progress and keeps what the next renewal sends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher import metrics
from reelhaul_fetcher.model.engine_requests import HttpStatusCounts, Product
from reelhaul_fetcher.model.progress import STAGE_PERCENTAGES, stage_name
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import WorkQueue
from reelhaul_runtime import logs
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import NOT_RECORDED

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.25
# Of an attempt: a child may report any number of stages.
_MAX_STAGE_SPANS = 100


class ProgressReporter:
    """``ports.ListListener`` of one attempt.

    Publishes the newest progress at most four times a second, to *queue* unless it is None. Calls
    *recording_started* and *media_file_ready* on these events, *published* with each progress
    published, and *renew_now* when jobs should hear of something soon.
    """

    def __init__(
        self,
        job: str,
        epoch: int,
        attempt: int,
        queue: WorkQueue | None,
        *,
        recording_started: Callable[[], None],
        media_file_ready: Callable[[Product], None],
        published: Callable[[Progress], None],
        renew_now: Callable[[], None],
        site: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*site*: where the media is from; *clock*: monotonic seconds."""
        self._job, self._epoch, self._attempt, self._queue = job, epoch, attempt, queue
        self._recording_started, self._media_file_ready = recording_started, media_file_ready
        self._published, self._renew_now = published, renew_now
        self._site, self._clock = site, clock
        self._stage_began = clock()
        self.status_counts = HttpStatusCounts()
        #: Whether a live stream is or was recorded: no other attempt can receive it again.
        self.has_recorded = False
        self.stop_recording = asyncio.Event()
        self.stop_reason: MediaWarning.Reason.ValueType = MediaWarning.RECORDING_CUT
        self.latest = Progress(attempt=attempt)
        #: Traffic of the attempt, as last measured.
        self.usage = Usage()
        #: Metadata that no renewal has sent yet.
        self.unsent_media: MediaInfo | None = None
        #: Entries of a list that no renewal has sent yet.
        self.unsent_entries: list[PlaylistEntry] = []
        self._entries_sent = asyncio.Event()
        self._sequence = 0
        self._stage_span = NOT_RECORDED
        self._stages = 0
        self._updated = asyncio.Event()

    def on_usage(self, usage: Usage) -> None:
        """Set the traffic, which never falls."""
        metrics.record_received(self._site, usage.ingress_bytes - self.usage.ingress_bytes)
        self.usage = usage

    def on_media(self, media: MediaInfo) -> None:
        self.unsent_media = media

    def on_recording(self) -> None:
        self.has_recorded = True
        self._recording_started()
        # A user can end a recording only once jobs knows of it.
        self._renew_now()

    def on_media_file(self, product: Product) -> None:
        self._media_file_ready(product)

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        self.unsent_entries += entries
        self._renew_now()

    def on_progress(self, progress: Progress) -> None:
        """Set the newest progress; percent and bytes never fall."""
        update = Progress()
        update.CopyFrom(progress)
        update.attempt = self._attempt
        update.measure_time.GetCurrentTime()
        update.downloaded_bytes = max(update.downloaded_bytes, self.latest.downloaded_bytes)
        if self.latest.HasField("percent"):
            update.percent = max(update.percent, self.latest.percent)
        if update.stage != self.latest.stage:
            log.debug("stage", extra={"job": self._job, "stage": stage_name(update.stage)})
            self._end_stage()
            self._stages += 1
            if self._stages <= _MAX_STAGE_SPANS:
                self._stage_span = spans.start(stage_name(update.stage).lower())
        self.latest = update
        self._updated.set()

    def end_recording(self, reason: MediaWarning.Reason.ValueType) -> None:
        """End the recording with what it has. The first reason wins."""
        if not self.stop_recording.is_set():
            self.stop_reason = reason
            self.stop_recording.set()

    def mark_entries_sent(self, count: int) -> None:
        """Drop the first *count* unsent entries: a renewal has sent them."""
        del self.unsent_entries[:count]
        if self.unsent_entries:
            self._renew_now()
        self._entries_sent.set()

    async def wait_entries_sent(self) -> None:
        """Return when renewals have sent every entry."""
        while self.unsent_entries:
            self._entries_sent.clear()
            await self._entries_sent.wait()

    def record_end(self, work: asyncio.Task[Any]) -> None:
        """Record in the span of the current stage that *work*, which has ended, failed in it."""
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if error is not None:
            self._stage_span.fail(spans.name_error(error))

    def in_stage(self) -> AbstractContextManager[None]:
        """Let the spans of the block be below that of the current stage."""
        return spans.continuing(self._stage_span.traceparent or logs.traceparent.get())

    def report_upload(self, stored: int, total: int, detail: str = "") -> None:
        """Report that *stored* of *total* bytes are in storage, and in *detail* what it waits for."""
        begin, end = STAGE_PERCENTAGES[Progress.UPLOADING]
        progress = Progress()
        progress.CopyFrom(self.latest)
        progress.stage, progress.detail, progress.bytes_per_second = Progress.UPLOADING, detail, 0
        progress.ClearField("eta")
        progress.percent = begin + (end - begin) * (min(stored / total, 1.0) if total else 1.0)
        self.on_progress(progress)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish progress within the block, the last one before it is left."""
        task = asyncio.create_task(self._publish_updates())
        try:
            yield
        finally:
            await cancel_and_wait(task)
            if self._updated.is_set():
                await self._publish_latest()
            self._end_stage()

    def _end_stage(self) -> None:
        began, self._stage_began = self._stage_began, self._clock()
        metrics.record_stage(self.latest.stage, self._stage_began - began)
        self._stage_span.end()
        self._stage_span = NOT_RECORDED

    async def _publish_updates(self) -> None:
        while True:
            await self._updated.wait()
            await self._publish_latest()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _publish_latest(self) -> None:
        self._updated.clear()
        self._sequence += 1
        self._published(self.latest)
        if self._queue is not None:
            await self._queue.publish_progress(
                work_pb2.ProgressNotice(
                    job=self._job, epoch=self._epoch, sequence=self._sequence, progress=self.latest
                )
            )
