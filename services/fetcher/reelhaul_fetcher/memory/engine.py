"""An engine in memory: it fetches what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model.engine_requests import (
    ExpandOrder,
    FetchOrder,
    FetchReport,
    ListReport,
    Order,
    ProbeOrder,
    Product,
)
from reelhaul_fetcher.ports import Listener, ListListener
from reelhaul_runtime.errors import ReelhaulError


class MemoryEngine:
    """Fetches one file of *content*, when ``go`` is set; fails with ``failure`` if there is one."""

    version = "memory 1"

    def __init__(self, content: bytes = b"a video") -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.stopped = False
        #: What it fetches is on air, and goes on until it is enough.
        self.on_air = False
        self.failure: Exception | None = None
        self.media = MediaInfo(title="A video", extractor="memory")
        #: What ``expand`` finds.
        self.entries: list[PlaylistEntry] = []
        self.probes = 0
        #: What ``sites`` finds, and how often it was asked.
        self.known: list[Extractor] = []
        self.listings = 0
        #: The orders, as they came.
        self.orders: list[Order] = []
        #: What a fetch says that there will be in all.
        self.total_bytes = 0
        self._content = content

    async def check(self) -> None:
        """As ``ports.Engine.check``."""

    async def fetch(self, order: FetchOrder, listener: Listener) -> FetchReport:
        """As ``ports.Engine.fetch``."""
        self.orders.append(order)
        path = order.folder / "result.mp4"
        path.write_bytes(self._content)
        listener.media(self.media)
        told = Progress(stage=Progress.DOWNLOADING, percent=40, downloaded_bytes=3)
        told.total_bytes = self.total_bytes
        listener.progress(told)
        if self.on_air:
            told.stage = Progress.RECORDING
            listener.progress(told)
            listener.recording()
        info = ArtifactInfo(kind=ArtifactInfo.VIDEO, file_name="A video.mp4", size_bytes=len(self._content))
        listener.ready(Product(path, info))
        self.begun.set()
        try:
            await (listener.enough if self.on_air else self.go).wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        if self.failure is not None:
            raise self.failure
        warnings = (Warned(reason=listener.why_enough),) if self.on_air else ()
        return FetchReport(self.media, (Product(path, info),), DeliveredMedia(), warnings)

    async def expand(self, order: ExpandOrder, listener: ListListener) -> ListReport:
        """As ``ports.Engine.expand``."""
        self.orders.append(order)
        listener.media(self.media)
        listener.entries(self.entries[order.start_position : order.max_entries])
        self.begun.set()
        await self.go.wait()
        return ListReport(self.media, truncated=len(self.entries) > order.max_entries)

    async def sites(self) -> Sequence[Extractor]:
        """As ``ports.Engine.sites``."""
        self.listings += 1
        return self.known

    async def probe(self, order: ProbeOrder) -> MediaInfo:
        """As ``ports.Engine.probe``."""
        self.orders.append(order)
        self.probes += 1
        await self.go.wait()
        if isinstance(self.failure, ReelhaulError):
            raise self.failure
        return self.media
