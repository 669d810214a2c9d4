"""Fakes of the fetcher's ports: engine, leases, queue, artifact storage, guard and translator."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.media_pb2 import (
    ArtifactInfo,
    DeliveredMedia,
    Format,
    MediaInfo,
    PlaylistEntry,
    Progress,
)
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul.work.v1 import lease_pb2, lease_service_pb2, work_pb2
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExpandResult,
    FetchRequest,
    FetchResult,
    ProbeRequest,
    Product,
)
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import ArtifactMetadata, Listener, ListListener
from reelhaul_runtime.errors import ReelhaulError, Unavailable


class FakeEngine:
    """Fetches one file of *content*, when ``go`` is set; fails with ``failure`` if there is one."""

    version = "memory 1"

    def __init__(self, content: bytes = b"a video") -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.started = asyncio.Event()
        self.stopped = False
        #: What it fetches is on air, and goes on until it is enough.
        self.live = False
        self.failure: Exception | None = None
        self.media = MediaInfo(title="A video", extractor="memory")
        #: What ``expand`` finds.
        self.entries: list[PlaylistEntry] = []
        self.probes = 0
        #: What ``sites`` finds, and how often it was asked.
        self.extractors: list[Extractor] = []
        self.listings = 0
        #: The orders, as they came.
        self.requests: list[EngineRequest] = []
        #: What a fetch says that there will be in all.
        self.total_bytes = 0
        self._content = content

    async def check(self) -> None:
        """As ``ports.Engine.check``."""

    async def fetch(self, order: FetchRequest, listener: Listener) -> FetchResult:
        """As ``ports.Engine.fetch``."""
        self.requests.append(order)
        path = order.folder / "result.mp4"
        path.write_bytes(self._content)
        listener.on_media(self.media)
        told = Progress(stage=Progress.DOWNLOADING, percent=40, downloaded_bytes=3)
        told.total_bytes = self.total_bytes
        listener.on_progress(told)
        if self.live:
            told.stage = Progress.RECORDING
            listener.on_progress(told)
            listener.on_recording()
        info = ArtifactInfo(kind=ArtifactInfo.VIDEO, file_name="A video.mp4", size_bytes=len(self._content))
        listener.on_media_file(Product(path, info))
        self.started.set()
        try:
            await (listener.stop_recording if self.live else self.go).wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        if self.failure is not None:
            raise self.failure
        warnings = (Warned(reason=listener.stop_reason),) if self.live else ()
        return FetchResult(self.media, (Product(path, info),), DeliveredMedia(), warnings)

    async def expand(self, order: ExpandRequest, listener: ListListener) -> ExpandResult:
        """As ``ports.Engine.expand``."""
        self.requests.append(order)
        listener.on_media(self.media)
        listener.on_entries(self.entries[order.start_position : order.max_entries])
        self.started.set()
        await self.go.wait()
        return ExpandResult(self.media, truncated=len(self.entries) > order.max_entries)

    async def list_extractors(self) -> Sequence[Extractor]:
        """As ``ports.Engine.sites``."""
        self.listings += 1
        return self.extractors

    async def probe(self, order: ProbeRequest) -> MediaInfo:
        """As ``ports.Engine.probe``."""
        self.requests.append(order)
        self.probes += 1
        await self.go.wait()
        if isinstance(self.failure, ReelhaulError):
            raise self.failure
        return self.media

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        """As ``ports.Engine.select_formats``: the format whose id is *selector*."""
        return [stream for stream in offered if stream.format_id == selector]


class FakeLeases:
    """Leases of jobs that are whatever ``specs`` says; ``away`` makes every call fail."""

    def __init__(self, log: list[str], lease_seconds: float = 30.0) -> None:
        self.log = log
        self.specs: dict[str, lease_pb2.FetchSpec] = {}
        self.unavailable = False
        #: What the next renewals and claims are answered with, instead of yes.
        self.renew_response = lease_service_pb2.RenewResponse()
        self.refusal: lease_pb2.Refusal | None = None
        #: Likewise, of outcomes.
        self.finish_response = lease_service_pb2.FinishResponse()
        self.finishes: list[lease_service_pb2.FinishRequest] = []
        self.renewals: list[lease_service_pb2.RenewRequest] = []
        self._lease_seconds = lease_seconds
        self._epochs = itertools.count(1)

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """As ``ports.Leases.claim``."""
        self._check("claim")
        if self.refusal is not None:
            return lease_service_pb2.ClaimResponse(refusal=self.refusal)
        duration = duration_pb2.Duration()
        duration.FromTimedelta(timedelta(seconds=self._lease_seconds))
        lease = lease_pb2.Lease(
            epoch=next(self._epochs),
            lease_duration=duration,
            spec=self.specs[request.job],
            egress=request.slot.egress,
        )
        return lease_service_pb2.ClaimResponse(lease=lease)

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """As ``ports.Leases.renew``."""
        self._check("renew")
        self.renewals.append(request)
        if self.renew_response.WhichOneof("outcome"):
            return self.renew_response
        return lease_service_pb2.RenewResponse(renewal=lease_pb2.Renewal())

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """As ``ports.Leases.finish``."""
        self._check("finish")
        self.finishes.append(request)
        if self.finish_response.WhichOneof("outcome"):
            return self.finish_response
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        return lease_service_pb2.FinishResponse(receipt=lease_pb2.Receipt(commit_time=now))

    def _check(self, call: str) -> None:
        self.log.append(call)
        if self.unavailable:
            raise Unavailable("jobs", "jobs does not answer")


class FakeDelivery:
    """A work item that writes down what is done with it in *log*."""

    def __init__(self, item: work_pb2.WorkItem, log: list[str]) -> None:
        self.item = item
        self._log = log

    async def ack(self) -> None:
        """As ``ports.Delivery.ack``."""
        self._log.append("ack")

    async def nak(self, delay: timedelta) -> None:
        """As ``ports.Delivery.nak``."""
        self._log.append(f"nak {delay.total_seconds():g}")

    async def in_progress(self) -> None:
        """As ``ports.Delivery.in_progress``."""
        self._log.append("in progress")


class FakeQueue:
    """Work items, hints and progress in lists. *log* is shared with its deliveries."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.published: list[work_pb2.ProgressNotice] = []
        self.worker_notices: asyncio.Queue[work_pb2.WorkerNotice] = asyncio.Queue()
        self._items: asyncio.Queue[work_pb2.WorkItem] = asyncio.Queue()
        self._hints: asyncio.Queue[work_pb2.StopHint] = asyncio.Queue()

    def put(self, item: work_pb2.WorkItem) -> None:
        """Queue *item*."""
        self._items.put_nowait(item)

    def put_hint(self, hint: work_pb2.StopHint) -> None:
        """Send *hint*."""
        self._hints.put_nowait(hint)

    async def next(self) -> FakeDelivery:
        """As ``ports.Queue.next``."""
        return FakeDelivery(await self._items.get(), self.log)

    async def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """As ``ports.Queue.hints``."""
        while True:
            yield await self._hints.get()

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """As ``ports.Queue.publish``."""
        kept = work_pb2.ProgressNotice()
        kept.CopyFrom(notice)
        self.published.append(kept)

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """As ``ports.Queue.say``."""
        self.worker_notices.put_nowait(notice)


class FakeArtifacts:
    """Artifacts in a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, ArtifactMetadata]] = {}
        #: What was announced, and neither stored nor withdrawn.
        self.prepared: set[Path] = set()

    def prepare(self, product: Product, stamp: ArtifactMetadata) -> None:
        """As ``ports.Artifacts.announce``."""
        self.prepared.add(product.path)

    async def cancel_prepared(self, folder: Path) -> None:
        """As ``ports.Artifacts.withdraw``."""
        self.prepared -= {path for path in self.prepared if path.parent == folder}

    async def store(
        self, product: Product, stamp: ArtifactMetadata, told: Callable[[int], None]
    ) -> ArtifactInfo:
        """As ``ports.Artifacts.store``."""
        info = ArtifactInfo()
        info.CopyFrom(product.info)
        info.name = f"artifacts/{uuid.uuid4()}"
        content = product.path.read_bytes()
        info.checksums.sha256 = hashlib.sha256(content).digest()
        self.prepared.discard(product.path)
        self.stored[info.name] = content, stamp
        told(len(content))
        return info

    async def delete(self, names: Sequence[str]) -> None:
        """As ``ports.Artifacts.discard``."""
        for name in names:
            self.stored.pop(name, None)


class FakeGuard:
    """Passes that lead nowhere."""

    def __init__(self) -> None:
        self.open_passes: set[str] = set()
        self.reported_usage = Usage()
        #: Bytes and seconds that each pass was opened for.
        self.budgets: list[tuple[int, float]] = []
        #: The egress of each pass that was opened.
        self.egresses: list[str] = []

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """As ``ports.Guard.open``."""
        self.open_passes.add(name)
        self.budgets.append((byte_limit, seconds))
        self.egresses.append(egress)
        return f"http://{name}:secret@127.0.0.1:9"

    async def usage(self, name: str) -> Usage:
        """As ``ports.Guard.usage``."""
        return self.reported_usage

    async def close(self, name: str) -> Usage:
        """As ``ports.Guard.close``."""
        self.open_passes.discard(name)
        return self.reported_usage


class FakeTranslator:
    """Translates by writing the language in front."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """As ``ports.Translator.translate``."""
        return [f"[{target}] {text}" for text in texts]
