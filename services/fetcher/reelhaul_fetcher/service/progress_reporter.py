"""What an attempt tells while it runs: newest progress to whoever watches, at most four times a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul.work.v1 import work_pb2
from reelhaul_fetcher.model.engine_requests import HttpStatusCounts, Product
from reelhaul_fetcher.model.progress import STAGE_PERCENTAGES
from reelhaul_fetcher.ports import WorkQueue
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.25


class ProgressReporter:
    """Listens to one fetch and publishes its newest progress; remembers what a renewal needs."""

    def __init__(
        self, queue: WorkQueue, job: str, epoch: int, attempt: int, eager: Callable[[], None] = lambda: None
    ) -> None:
        self.status_counts = HttpStatusCounts()
        #: Set: a recording is to end, with what it has.
        self.stop_recording = asyncio.Event()
        self.stop_reason: Warned.Reason.ValueType = Warned.RECORDING_CUT
        #: Called when a recording begins.
        self.recording_callback: Callable[[], None] = lambda: None
        #: Called with what is published.
        self.on_published: Callable[[Progress], None] = lambda _: None
        #: Called when the media's file is whole.
        self.on_ready: Callable[[Product], None] = lambda _: None
        self.latest = Progress(attempt=attempt)
        #: Metadata that no renewal has carried yet.
        self.unsent_media: MediaInfo | None = None
        #: Entries of a list that no renewal has carried yet.
        self.unsent_entries: list[PlaylistEntry] = []
        self._taken = asyncio.Event()
        self._eager = eager
        self._queue, self._job, self._epoch, self._attempt = queue, job, epoch, attempt
        self._sequence = 0
        self._fresh = asyncio.Event()

    def on_media(self, media: MediaInfo) -> None:
        """Metadata was read."""
        self.unsent_media = media

    def on_recording(self) -> None:
        """What is on air is being recorded from now on: jobs is to know, since a user may end it."""
        self.recording_callback()
        self._eager()

    def end_recording(self, why: Warned.Reason.ValueType) -> None:
        """That is enough; the first reason holds."""
        if not self.stop_recording.is_set():
            self.stop_reason = why
            self.stop_recording.set()

    def on_media_file(self, product: Product) -> None:
        """The media's file is whole, and is being tried."""
        self.on_ready(product)

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """More of a list is known; jobs is to hear of it soon."""
        self.unsent_entries += entries
        self._eager()

    def mark_entries_sent(self, number: int) -> None:
        """A renewal carried the first *number* of the unsent entries."""
        del self.unsent_entries[:number]
        if self.unsent_entries:
            self._eager()
        self._taken.set()

    async def wait_entries_sent(self) -> None:
        """Return when renewals have carried every entry."""
        while self.unsent_entries:
            self._taken.clear()
            await self._taken.wait()

    def on_progress(self, progress: Progress) -> None:
        """*progress* is the newest; percent and bytes never fall."""
        told = Progress()
        told.CopyFrom(progress)
        told.attempt = self._attempt
        told.measure_time.GetCurrentTime()
        told.downloaded_bytes = max(told.downloaded_bytes, self.latest.downloaded_bytes)
        if self.latest.HasField("percent"):
            told.percent = max(told.percent, self.latest.percent)
        if told.stage != self.latest.stage:
            log.debug("stage", extra={"job": self._job, "stage": Progress.Stage.Name(told.stage)})
        self.latest = told
        self._fresh.set()

    def report_upload(self, stored: int, total: int) -> None:
        """*stored* of *total* bytes are in storage."""
        begin, end = STAGE_PERCENTAGES[Progress.UPLOADING]
        told = Progress()
        told.CopyFrom(self.latest)
        told.stage, told.detail, told.bytes_per_second = Progress.UPLOADING, "", 0
        told.ClearField("eta")
        told.percent = begin + (end - begin) * (min(stored / total, 1.0) if total else 1.0)
        self.on_progress(told)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish within the block; the last progress goes out before it is left."""
        task = asyncio.create_task(self._publish())
        try:
            yield
        finally:
            await cancel_and_wait(task)
            if self._fresh.is_set():
                await self._publish_one()

    async def _publish(self) -> None:
        while True:
            await self._fresh.wait()
            await self._publish_one()
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _publish_one(self) -> None:
        self._fresh.clear()
        self._sequence += 1
        self.on_published(self.latest)
        await self._queue.publish_progress(
            work_pb2.ProgressNotice(
                job=self._job, epoch=self._epoch, sequence=self._sequence, progress=self.latest
            )
        )
