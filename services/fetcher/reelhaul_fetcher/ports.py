"""Ports: what the fetcher's use cases need from the outside. Each docstring is its adapters' contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Format, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
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
    """Receives the events of a running fetch. Called in the event loop; must not block."""

    status_counts: HttpStatusCounts
    #: Once set, a running recording ends and what it has becomes the result.
    stop_recording: asyncio.Event
    #: Why: RECORDING_CUT or RECORDING_STOPPED.
    stop_reason: MediaWarning.Reason.ValueType

    def on_recording(self) -> None:
        """Called when the recording of a live stream begins."""

    def on_media_file(self, product: Product) -> None:
        """Called when the media file is complete, before it is verified; the fetch may still fail."""

    def on_media(self, media: MediaInfo) -> None:
        """Called when the metadata is known."""

    def on_progress(self, progress: Progress) -> None:
        """Called with stage, percent and bytes: at most four times a second, and when a stage begins."""


class ListListener(Listener, Protocol):
    """Receives the events of the expansion of a playlist or channel."""

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """Called with the next entries, in order; an entry without a URL cannot be fetched."""


class Engine(Protocol):
    """Reads sites."""

    @property
    def version(self) -> str:
        """Engine and version, e.g. "yt-dlp 2026.10.26"."""

    async def check(self) -> None:
        """Return within seconds if the engine is warm. Raises Unavailable."""

    async def fetch(self, request: FetchRequest, listener: Listener) -> FetchResult:
        """Fetch into the request's folder, which exists.

        Cancellation stops every process of the fetch before it returns. Raises ReelhaulError
        with the reason of the failure; WORKER_LOST if the engine died.
        """

    async def expand(self, request: ExpandRequest, listener: ListListener) -> ExpandResult:
        """Read the entries of a list; a single video is a list of one. Otherwise like ``fetch``."""

    async def probe(self, request: ProbeRequest) -> MediaInfo:
        """Return the metadata of the request's URL. Otherwise like ``fetch``."""

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        """Return the formats of *offered* (worst first) that yt-dlp's format *selector* takes.

        Blocks; the first call takes up to a second. Raises ValueError, with the reason, if *selector* is
        not in the allowed part of the language.
        """

    async def list_extractors(self) -> Sequence[Extractor]:
        """Return every extractor, unsorted; takes about a second. Raises Unavailable, WORKER_LOST."""


class Translator(Protocol):
    """Translates subtitles."""

    async def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return the translation of each of *texts* from the language *source* into *target*.

        Raises TRANSLATION_UNAVAILABLE: no provider, no such language pair, or no answer.
        """


class Guard(Protocol):
    """The proxy that decides which addresses a fetch may reach. Each fetch has a session of its own."""

    async def open(self, name: str, byte_limit: int, egress: str = "", seconds: float = 0) -> str:
        """Open the session *name* and return its proxy URL with credentials.

        *byte_limit* and *seconds* are its budgets; 0 means no limit. All its traffic goes out through
        *egress*: sites bind the URLs that they hand out to an address. Raises Unavailable.
        """

    async def usage(self, name: str) -> Usage:
        """Return what the open session has used so far."""

    async def close(self, name: str) -> Usage:
        """Close the session, cut its connections and return its usage; none if it is not open."""


class CookieStore(Protocol):
    """Named cookies of the operator."""

    def get(self, name: str, tenant: str) -> CookieJar:
        """Return the cookies *name*. Raises COOKIES_UNKNOWN unless they exist and *tenant* may use them."""

    def record_result(self, name: str, refused: str) -> None:
        """Record whether the site accepted them: *refused* is its answer, empty if it did. Never raises."""


class Leases(Protocol):
    """Leases of jobs, as the jobs service grants them. Every method raises Unavailable while it is away."""

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """Claim a job."""

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """Renew the lease of a job."""

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """Report the outcome of an attempt and end its lease."""


@dataclass(frozen=True, slots=True)
class ArtifactMetadata:
    """Owner and lifetime of an artifact; job and epoch tell results from leftovers of a lost lease."""

    job: str
    epoch: int
    tenant: str
    labels: Mapping[str, str]
    ttl: timedelta


class ArtifactStore(Protocol):
    """Stores finished files."""

    def prepare(self, product: Product, metadata: ArtifactMetadata) -> None:
        """Start the slow part of storing *product* before ``store``; its file is complete. Never raises."""

    async def cancel_prepared(self, folder: Path) -> None:
        """Drop what was prepared of *folder* and not stored. Never raises and hardly waits."""

    async def store(
        self,
        product: Product,
        metadata: ArtifactMetadata,
        on_progress: Callable[[int], None],
        on_wait: Callable[[str], None],
        *,
        irreplaceable: bool = False,
    ) -> ArtifactInfo:
        """Store *product* and return it with checksums; its file may be gone afterwards.

        *on_progress* is called with the bytes stored so far, *on_wait* with the reason before each retry.
        Retries while bytes arrive and for a while after that, then raises STORAGE_UNAVAILABLE; never gives
        up if *product* is *irreplaceable*. Leaves no upload behind if it fails or is cancelled.
        """

    async def delete(self, names: Sequence[str]) -> None:
        """Delete artifacts that nobody will read. Never raises: they also expire."""


class Scratch(Protocol):
    """Work directories of attempts. Only the media received may outlive an attempt."""

    def create(self, job: str, epoch: int, tenant: str | None = None) -> Path:
        """Create a directory for this lease of *job*, mode 0700. Raises WORKER_DISK_FULL.

        It contains the media that an earlier lease of the job of *tenant* received on this disk, if that
        lease has ended; no other directory has that media from then on. Without a tenant, nothing is kept.
        """

    async def keep(self, folder: Path) -> None:
        """Remove *folder*, but keep the media received for a later lease of its job, within limits.

        No process writes into it any more. Never raises.
        """

    async def discard(self, job: str) -> None:
        """Delete the media kept for *job*, which has no later lease. Never raises."""

    async def remove(self, folder: Path) -> None:
        """Remove *folder* and everything in it. Never raises."""

    async def make_space(self, free_bytes: int) -> None:
        """Delete kept media, the oldest first, until *free_bytes* are free or nothing is left."""

    async def list_kept_jobs(self) -> Sequence[str]:
        """Return the jobs for which media is kept."""

    async def sweep(self) -> int:
        """Delete directories of dead workers, and media kept for too long; return how many."""

    def free_bytes(self) -> int:
        """Return the bytes that attempts may still write; kept media counts as used. Blocks on the disk."""

    def used_bytes(self, job: str, epoch: int) -> int:
        """Return the disk usage of this lease's directory; 0 if there is none. Blocks on the disk."""


class Delivery(Protocol):
    """One delivered work item. It is acknowledged or handed back exactly once."""

    item: work_pb2.WorkItem

    async def ack(self) -> None:
        """Remove the item from the queue. Never raises: if it is redelivered, its job has ended."""

    async def nak(self, delay: timedelta) -> None:
        """Hand the item back for redelivery after *delay*. Never raises."""

    async def in_progress(self) -> None:
        """Extend the time until redelivery. Never raises."""


class WorkQueue(Protocol):
    """The broker: work items, hints to workers, and notices from them."""

    async def next(self) -> Delivery:
        """Wait for the next item: high before normal before bulk; bulk first every eighth time.

        Also waits while the broker is away. Cancellation loses no item.
        """

    def stop_hints(self) -> AsyncIterator[work_pb2.StopHint]:
        """Yield jobs whose lease should be renewed at once. Hints may be lost."""

    async def publish_progress(self, notice: work_pb2.ProgressNotice) -> None:
        """Publish the progress of a job. Never raises; drops what cannot be sent."""

    async def publish_worker(self, notice: work_pb2.WorkerNotice) -> None:
        """Publish the state of this worker. Never raises; drops what cannot be sent."""
