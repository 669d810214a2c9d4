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
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
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
    """``ports.Engine``: fetches a file of *content* once ``go`` is set; raises ``failure`` if that is set."""

    version = "memory 1"

    def __init__(self, content: bytes = b"a video") -> None:
        #: Clear it to hold fetches.
        self.go = asyncio.Event()
        self.go.set()
        #: Set once a fetch or an expansion has started.
        self.started = asyncio.Event()
        #: A fetch was cancelled.
        self.stopped = False
        #: Fetches record a live stream until the listener stops them.
        self.live = False
        self.failure: Exception | None = None
        self.media = MediaInfo(title="A video", extractor="memory")
        #: The entries that ``expand`` finds.
        self.entries: list[PlaylistEntry] = []
        #: How often ``probe`` was called.
        self.probes = 0
        #: What ``list_extractors`` returns, and how often it was called.
        self.extractors: list[Extractor] = []
        self.listings = 0
        #: All requests, in request.
        self.requests: list[EngineRequest] = []
        #: The total_bytes in the progress of fetches.
        self.total_bytes = 0
        #: Called with each fetch.
        self.on_fetch: Callable[[FetchRequest], None] = lambda _: None
        #: The stage in which fetches are held.
        self.stage: Progress.Stage.ValueType = Progress.DOWNLOADING
        self._content = content

    async def check(self) -> None:
        """It is always warm."""

    async def fetch(self, request: FetchRequest, listener: Listener) -> FetchResult:
        self.requests.append(request)
        self.on_fetch(request)
        path = request.folder / "result.mp4"
        path.write_bytes(self._content)
        listener.on_media(self.media)
        progress = Progress(stage=self.stage, percent=40, downloaded_bytes=3)
        progress.total_bytes = self.total_bytes
        listener.on_progress(progress)
        if self.live:
            progress.stage = Progress.RECORDING
            listener.on_progress(progress)
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
        warnings = (MediaWarning(reason=listener.stop_reason),) if self.live else ()
        return FetchResult(self.media, (Product(path, info),), DeliveredMedia(), warnings)

    async def expand(self, request: ExpandRequest, listener: ListListener) -> ExpandResult:
        self.requests.append(request)
        listener.on_media(self.media)
        listener.on_entries(self.entries[request.start_position : request.max_entries])
        self.started.set()
        await self.go.wait()
        return ExpandResult(self.media, truncated=len(self.entries) > request.max_entries)

    async def list_extractors(self) -> Sequence[Extractor]:
        self.listings += 1
        return self.extractors

    async def probe(self, request: ProbeRequest) -> MediaInfo:
        self.requests.append(request)
        self.probes += 1
        await self.go.wait()
        if isinstance(self.failure, ReelhaulError):
            raise self.failure
        return self.media

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        """Return the format whose id is *selector*."""
        return [stream for stream in offered if stream.format_id == selector]


class FakeLeases:
    """``ports.Leases``: grants leases of the jobs in ``specs``; every call fails while ``unavailable``."""

    def __init__(self, log: list[str], lease_seconds: float = 30.0) -> None:
        self.log = log
        self.specs: dict[str, lease_pb2.FetchSpec] = {}
        self.unavailable = False
        #: If set: the answer to renewals, claims and finishes.
        self.renew_response = lease_service_pb2.RenewResponse()
        self.refusal: lease_pb2.Refusal | None = None
        self.finish_response = lease_service_pb2.FinishResponse()
        #: Otherwise each Finish that does not release its job ends it.
        self.job_goes_on = False
        self.finishes: list[lease_service_pb2.FinishRequest] = []
        self.renewals: list[lease_service_pb2.RenewRequest] = []
        self._lease_seconds = lease_seconds
        self._epochs = itertools.count(1)

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
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
        self._check("renew")
        self.renewals.append(request)
        if self.renew_response.WhichOneof("outcome"):
            return self.renew_response
        return lease_service_pb2.RenewResponse(renewal=lease_pb2.Renewal())

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        self._check("finish")
        self.finishes.append(request)
        if self.finish_response.WhichOneof("outcome"):
            return self.finish_response
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        ended = not self.job_goes_on and not request.HasField("released")
        return lease_service_pb2.FinishResponse(receipt=lease_pb2.Receipt(commit_time=now, job_ended=ended))

    def _check(self, call: str) -> None:
        self.log.append(call)
        if self.unavailable:
            raise Unavailable("jobs", "jobs does not answer")


class FakeDelivery:
    """``ports.Delivery``: logs its calls."""

    def __init__(self, item: work_pb2.WorkItem, log: list[str]) -> None:
        self.item = item
        self._log = log

    async def ack(self) -> None:
        self._log.append("ack")

    async def nak(self, delay: timedelta) -> None:
        self._log.append(f"nak {delay.total_seconds():g}")

    async def in_progress(self) -> None:
        self._log.append("in progress")


class FakeQueue:
    """``ports.WorkQueue`` in memory; *log* is shared with its deliveries."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        #: Set once ``next`` waits for an item.
        self.waiting = asyncio.Event()
        self.published: list[work_pb2.ProgressNotice] = []
        self.worker_notices: asyncio.Queue[work_pb2.WorkerNotice] = asyncio.Queue()
        self._items: asyncio.Queue[work_pb2.WorkItem] = asyncio.Queue()
        self._hints: asyncio.Queue[work_pb2.StopHint] = asyncio.Queue()

    def put(self, item: work_pb2.WorkItem) -> None:
        """Add a work item."""
        self._items.put_nowait(item)

    def put_hint(self, hint: work_pb2.StopHint) -> None:
        """Send a stop hint."""
        self._hints.put_nowait(hint)

    async def next(self) -> FakeDelivery:
        self.waiting.set()
        return FakeDelivery(await self._items.get(), self.log)

    async def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        while True:
            yield await self._hints.get()

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        copy = work_pb2.ProgressNotice()
        copy.CopyFrom(notice)
        self.published.append(copy)

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        self.worker_notices.put_nowait(notice)


class FakeArtifacts:
    """``ports.ArtifactStore`` in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, ArtifactMetadata]] = {}
        #: Files that were to be stored however long it takes.
        self.irreplaceable: list[Path] = []
        #: Cleared: storage is away.
        self.available = asyncio.Event()
        self.available.set()
        #: Files that were prepared and neither stored nor cancelled.
        self.prepared: set[Path] = set()

    def prepare(self, product: Product, metadata: ArtifactMetadata) -> None:
        self.prepared.add(product.path)

    async def cancel_prepared(self, folder: Path) -> None:
        self.prepared -= {path for path in self.prepared if path.parent == folder}

    async def store(
        self,
        product: Product,
        metadata: ArtifactMetadata,
        on_progress: Callable[[int], None],
        on_wait: Callable[[str], None],
        *,
        irreplaceable: bool = False,
    ) -> ArtifactInfo:
        if irreplaceable:
            self.irreplaceable.append(product.path)
        info = ArtifactInfo()
        info.CopyFrom(product.info)
        info.name = f"artifacts/{uuid.uuid4()}"
        content = product.path.read_bytes()
        info.checksums.sha256 = hashlib.sha256(content).digest()
        self.prepared.discard(product.path)
        if not self.available.is_set():
            on_wait("storage does not answer")
        await self.available.wait()
        self.stored[info.name] = content, metadata
        on_progress(len(content))
        return info

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.stored.pop(name, None)


class FakeGuard:
    """``ports.Guard`` whose proxy URLs lead nowhere."""

    def __init__(self) -> None:
        self.open_sessions: set[str] = set()
        self.reported_usage = Usage()
        #: Byte limit and seconds of each session.
        self.budgets: list[tuple[int, float]] = []
        #: Egress of each session.
        self.egresses: list[str] = []

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        self.open_sessions.add(name)
        self.budgets.append((byte_limit, seconds))
        self.egresses.append(egress)
        return f"http://{name}:secret@127.0.0.1:9"

    async def usage(self, name: str) -> Usage:
        return self.reported_usage

    async def close(self, name: str) -> Usage:
        self.open_sessions.discard(name)
        return self.reported_usage


class FakeTranslator:
    """``ports.Translator``: puts the target language in front of each text."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        return [f"[{target}] {text}" for text in texts]
