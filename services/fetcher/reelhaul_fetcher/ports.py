"""What a fetcher needs of the world. Each docstring is the contract of its adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Format, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul.work.v1 import lease_service_pb2, work_pb2
from reelhaul_fetcher.model.cookies import CookieJar
from reelhaul_fetcher.model.engine_requests import (
    ExpandRequest,
    ExpandResult,
    FetchRequest,
    FetchResult,
    HttpStatusCounts,
    ProbeRequest,
    Product,
)
from reelhaul_fetcher.model.proxy_usage import Usage


class Listener(Protocol):
    """Who hears of a fetch while it runs. Called in the event loop; must not block."""

    status_counts: HttpStatusCounts
    #: Set: a recording that has begun is to end now, and what it has is its file.
    stop_recording: asyncio.Event
    #: Why that is: RECORDING_CUT or RECORDING_STOPPED.
    stop_reason: Warned.Reason.ValueType

    def on_recording(self) -> None:
        """What is on air is being recorded from now on."""

    def on_media_file(self, product: Product) -> None:
        """The media's file is whole; it is still to be tried, and is no result if it fails."""

    def on_media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""

    def on_progress(self, progress: Progress) -> None:
        """Newest progress: stage, percent, bytes; at most four a second and at each new stage."""


class ListListener(Listener, Protocol):
    """Who hears of a list while it is paged through."""

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """The next entries, in order; one without a URL cannot be fetched."""


class Engine(Protocol):
    """What reads sites."""

    @property
    def version(self) -> str:
        """Engine and version, e.g. "yt-dlp 2026.10.26"."""

    async def check(self) -> None:
        """Return when the engine is warm, at most seconds later. Raises Unavailable."""

    async def fetch(self, order: FetchRequest, listener: Listener) -> FetchResult:
        """Fetch into the order's folder, which exists.

        Being cancelled stops every process of the fetch before it returns. Raises
        ReelhaulError with the reason, WORKER_LOST if the engine died under it.
        """

    async def expand(self, order: ExpandRequest, listener: ListListener) -> ExpandResult:
        """Page through the order's list; media that is no list is one of itself. As ``fetch`` in all else."""

    async def probe(self, order: ProbeRequest) -> MediaInfo:
        """Metadata of the order's URL. As ``fetch`` in all else."""

    async def list_extractors(self) -> Sequence[Extractor]:
        """Every site that it knows, in no order; takes a second. Raises Unavailable, WORKER_LOST."""

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        """Return the formats of *offered* (worst first) that yt-dlp's format *selector* takes.

        Blocks; the first call takes up to a second. Raises ValueError, with the reason, if *selector* is
        not in the allowed part of the language.
        """


class Translator(Protocol):
    """What translates subtitles."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """*texts* of the language *source* in *target*, one for one.

        Raises TRANSLATION_UNAVAILABLE: no provider, none for these languages, or it does not answer.
        """


class Guard(Protocol):
    """The proxy that decides what a fetch may reach."""

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """A pass called *name*: the proxy's URL, credentials in it. 0 bytes, or seconds, means no limit.

        All that uses it goes out by *egress*: sites bind what they hand out to an address.

        Raises Unavailable.
        """

    async def usage(self, name: str) -> Usage:
        """What went through the pass so far."""

    async def close(self, name: str) -> Usage:
        """End the pass and what runs through it. One that is not open was never used."""


class CookieStore(Protocol):
    """Cookies that the operator keeps, by name, for tenants."""

    def get(self, name: str, tenant: str) -> CookieJar:
        """Those called *name*. Raises COOKIES_UNKNOWN where *tenant* has none such."""

    def record_result(self, name: str, refused: str) -> None:
        """How the site took them: *refused* is what it said, empty where they did. Never raises."""


class Leases(Protocol):
    """The right to work on jobs, as jobs gives it. Every method raises Unavailable while jobs is away."""

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """Take a job."""

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """Keep it."""

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """End it."""


@dataclass(frozen=True, slots=True)
class ArtifactMetadata:
    """Whose an artifact is: written on it, so that one of a lost lease is told from a result."""

    job: str
    epoch: int
    tenant: str
    labels: Mapping[str, str]
    ttl: timedelta


class ArtifactStore(Protocol):
    """Where finished files go."""

    def prepare(self, product: Product, metadata: ArtifactMetadata) -> None:
        """*product* is whole, and may be stored soon: what takes long is begun. Never fails."""

    async def cancel_prepared(self, folder: Path) -> None:
        """What was announced of *folder* and is not stored will not be. Never raises, waits little."""

    async def store(
        self, product: Product, metadata: ArtifactMetadata, on_progress: Callable[[int], None]
    ) -> ArtifactInfo:
        """Store *product*; *told* hears the bytes stored so far. Its file may be gone afterwards.

        What is returned has the checksums of what is stored.
        Tries again for a while; then raises STORAGE_UNAVAILABLE. Being cancelled, or failing,
        leaves nothing staged.
        """

    async def delete(self, names: Sequence[str]) -> None:
        """Remove artifacts that nobody will ask for. Never raises: they expire as well."""


class Scratch(Protocol):
    """Where attempts have their folders. None outlives its attempt."""

    def create(self, job: str, epoch: int) -> Path:
        """An empty folder for this lease of *job*, readable by us only. Raises WORKER_DISK_FULL."""

    async def remove(self, folder: Path) -> None:
        """Remove *folder* and all in it. Never raises."""

    def free_bytes(self) -> int:
        """Bytes that attempts may still write. May block for a look at the disk."""

    def used_bytes(self, job: str, epoch: int) -> int:
        """Bytes that the folder of this lease takes; 0 where there is none. Blocks likewise."""


class Delivery(Protocol):
    """One work item in hand: to be acknowledged or handed back, once."""

    item: work_pb2.WorkItem

    async def ack(self) -> None:
        """It is dealt with. Never raises: an item that comes again finds its job ended."""

    async def nak(self, delay: timedelta) -> None:
        """Hand it back, to come again after *delay*. Never raises."""

    async def in_progress(self) -> None:
        """It is still being worked on. Never raises."""


class WorkQueue(Protocol):
    """Where work comes from."""

    async def next(self) -> Delivery:
        """The next item: high before normal before bulk, bulk first at every eighth time.

        Waits while there is none and while the broker is away. Being cancelled loses none.
        """

    def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """Jobs whose lease should be renewed now. Some may be lost."""

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """Tell of progress. Never raises; what cannot be sent is dropped."""

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """Tell of this worker. Never raises; what cannot be sent is dropped."""
