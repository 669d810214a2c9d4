"""Download: what an attempt does under its lease. Fetches through the guard, stores the result, cleans up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Progress
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.model.engine_requests import (
    ExpandRequest,
    ExpandResult,
    FetchRequest,
    FetchResult,
    Product,
)
from reelhaul_fetcher.model.progress import PaceMonitor, Watchdog, stage_name
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import ArtifactMetadata, ArtifactStore, Engine, Scratch
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_runtime.errors import ReelhaulError

T = TypeVar("T")
Succeeded = lease_service_pb2.FinishRequest.Succeeded

# Bytes that a session may carry beyond the media: pages, manifests, what a retry repeats.
_BYTES_BEYOND_MEDIA = 64 * 1024 * 1024
# The share of an attempt's time that a recording may take; the rest is to package and store it.
_RECORDING_SHARE = 0.85
# More than the pages of ten thousand entries.
_MAX_LIST_BYTES = 1024 * 1024 * 1024
# Time for jobs to confirm an artifact after the attempt.
_CONFIRMATION_TTL = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every fetch on this worker, whatever its job allows."""

    max_seconds: float
    stall_seconds: float
    cpu_seconds: int
    memory_bytes: int = 4 << 30
    #: See ``PaceMonitor``.
    extraction_seconds: float = 300.0
    min_bytes_per_second: int = 0
    pace_window_seconds: float = 300.0


def artifact_metadata(job: str, epoch: int, spec: lease_pb2.FetchSpec) -> ArtifactMetadata:
    """Return the metadata of artifacts of *spec*."""
    ttl = spec.attempt_deadline.ToTimedelta() + _CONFIRMATION_TTL
    return ArtifactMetadata(job, epoch, spec.tenant, dict(spec.labels), ttl)


@dataclass(slots=True)
class Downloader:
    """Turns a lease into stored artifacts."""

    engine: Engine
    access: SiteAccess
    artifacts: ArtifactStore
    scratch: Scratch
    limits: Limits

    async def download(
        self, job: str, lease: lease_pb2.Lease, metadata: ArtifactMetadata, reporter: ProgressReporter
    ) -> tuple[Succeeded, Usage]:
        """Execute the fetch of *lease*, and return the result and the traffic.

        Raises the failure. The work directory and the guard session are removed in both cases. The media
        received is kept until the caller discards it, for another attempt of the job.
        """
        if lease.spec.HasField("expansion"):
            return await self._expand_list(job, lease, reporter)
        # A fetch that belongs to no job has no other attempt.
        tenant = lease.spec.tenant if metadata.job else None
        folder, infos = self.scratch.create(job, lease.epoch, tenant), list[ArtifactInfo]()
        try:
            try:
                fetched, usage = await self._fetch(job, lease, folder, reporter)
                await self._store(fetched.products, metadata, reporter, infos)
            finally:
                await asyncio.shield(self.artifacts.cancel_prepared(folder))
                await asyncio.shield(self.scratch.keep(folder))
        except BaseException:
            await asyncio.shield(self.artifacts.delete([info.name for info in infos]))
            raise
        result = Succeeded(
            artifacts=infos, media=fetched.media, got=fetched.delivered, warnings=fetched.warnings
        )
        return result, usage

    async def _expand_list(
        self, job: str, lease: lease_pb2.Lease, reporter: ProgressReporter
    ) -> tuple[Succeeded, Usage]:
        """Read the list; return once jobs has every entry."""
        expansion, cookies = lease.spec.expansion, self._cookies(lease)

        def expand(proxy_url: str) -> Coroutine[Any, Any, ExpandResult]:
            request = ExpandRequest(
                lease.spec.url,
                proxy_url,
                expansion.max_entries,
                expansion.start_position,
                cookies=cookies,
            )
            return self.engine.expand(request, reporter)

        expanded, usage = await self._run(job, lease, _MAX_LIST_BYTES, expand, reporter)
        await reporter.wait_entries_sent()
        result = Succeeded(media=expanded.media, warnings=expanded.warnings)
        if expanded.truncated:
            text = f"the list has more than the {expansion.max_entries} entries that were read"
            result.warnings.add(reason=media_pb2.Warning.ENTRIES_TRUNCATED, message=text)
        return result, usage

    async def _fetch(
        self, job: str, lease: lease_pb2.Lease, folder: Path, reporter: ProgressReporter
    ) -> tuple[FetchResult, Usage]:
        size_limit = lease.spec.format.max_size_bytes
        byte_limit = size_limit + _BYTES_BEYOND_MEDIA if size_limit else 0
        cookies = self._cookies(lease)

        def fetch(proxy_url: str) -> Coroutine[Any, Any, FetchResult]:
            return self.engine.fetch(self._request(lease, folder, proxy_url, size_limit, cookies), reporter)

        return await self._run(job, lease, byte_limit, fetch, reporter)

    def _request(
        self, lease: lease_pb2.Lease, folder: Path, proxy_url: str, size_limit: int, cookies: str
    ) -> FetchRequest:
        spec = lease.spec
        requested_seconds = spec.format.max_duration.ToTimedelta().total_seconds()
        max_seconds = min(requested_seconds or self.limits.max_seconds, self.limits.max_seconds)
        record_seconds = spec.format.live.max_duration.ToTimedelta().total_seconds()
        deadline = spec.attempt_deadline.ToTimedelta().total_seconds()
        return FetchRequest(
            url=spec.url,
            format=spec.format,
            folder=folder,
            proxy_url=proxy_url,
            title=spec.title,
            size_limit=size_limit,
            max_seconds=max_seconds,
            record_seconds=min(record_seconds or max_seconds, max_seconds),
            record_timeout_seconds=deadline * _RECORDING_SHARE,
            idle_seconds=self.limits.stall_seconds,
            cpu_seconds=self.limits.cpu_seconds,
            memory_bytes=self.limits.memory_bytes,
            cookies=cookies,
            recording_stopped=spec.recording_stopped,
        )

    def _cookies(self, lease: lease_pb2.Lease) -> str:
        spec = lease.spec
        return self.access.cookies.get_text(spec.format.cookies, spec.tenant, spec.url)

    async def _run(
        self,
        job: str,
        lease: lease_pb2.Lease,
        byte_limit: int,
        work: Callable[[str], Coroutine[Any, Any, T]],
        reporter: ProgressReporter,
    ) -> tuple[T, Usage]:
        """Await *work* with a guard session of its own; return its result and the session's usage."""
        session = f"{job.removeprefix('jobs/')}-{lease.epoch}"
        return await self.access.run(
            lambda proxy_url: self._watch(work(proxy_url), lease.spec.url, session, reporter),
            session=session,
            url=lease.spec.url,
            egress=lease.egress,
            cookies=lease.spec.format.cookies,
            byte_limit=byte_limit,
            seconds=lease.spec.attempt_deadline.ToTimedelta().total_seconds(),
            on_usage=reporter.on_usage,
        )

    async def _watch(
        self, work: Coroutine[Any, Any, T], url: str, session: str, reporter: ProgressReporter
    ) -> T:
        """Await *work*. Raises UPSTREAM_STALLED if *session* receives next to nothing, or too slowly."""
        task = asyncio.create_task(work)
        limits, began = self.limits, time.monotonic()
        watchdog = Watchdog(limits.stall_seconds, began)
        pace = PaceMonitor(
            limits.extraction_seconds, limits.min_bytes_per_second, began, limits.pace_window_seconds
        )
        interval = min(limits.stall_seconds, limits.extraction_seconds, limits.pace_window_seconds) / 6
        try:
            while not (await asyncio.wait({task}, timeout=interval))[0]:
                # The guard's count, because yt-dlp reports bytes only once a whole block has arrived.
                usage = await self.access.guard.usage(session)
                reporter.on_usage(usage)
                received = usage.ingress_bytes
                now, stage = time.monotonic(), reporter.latest.stage
                if watchdog.is_stalled(now, stage, received):
                    text = f"the site sent next to nothing for {limits.stall_seconds:.0f} s"
                    raise _stalled(url, text, stage)
                if text := pace.find_fault(now, stage, received):
                    raise _stalled(url, text, stage)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _store(
        self,
        products: tuple[Product, ...],
        metadata: ArtifactMetadata,
        reporter: ProgressReporter,
        infos: list[ArtifactInfo],
    ) -> None:
        """Store *products*; append what is stored to *infos*, so that a failure can delete it."""
        total = sum(product.info.size_bytes for product in products)
        before = 0
        reporter.report_upload(0, total)
        for product in products:

            def on_progress(stored: int, before: int = before) -> None:
                reporter.report_upload(before + stored, total)

            def on_wait(reason: str, before: int = before) -> None:
                reporter.report_upload(before, total, f"waiting: {reason}")

            with reporter.in_stage():
                info = await self.artifacts.store(
                    product, metadata, on_progress, on_wait, irreplaceable=reporter.has_recorded
                )
            infos.append(info)
            before += product.info.size_bytes
            reporter.report_upload(before, total)


def _stalled(url: str, text: str, stage: Progress.Stage.ValueType) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.UPSTREAM_STALLED,
        text,
        metadata={"host": urlsplit(url).hostname or "", "stage": stage_name(stage)},
    )
