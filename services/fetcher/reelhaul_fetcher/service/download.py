"""What is done under a lease: fetch through the guard, then store; every folder and pass is given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, Progress
from reelhaul.work.v1 import lease_pb2, lease_service_pb2
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.model.engine_requests import (
    ExpandRequest,
    ExpandResult,
    FetchRequest,
    FetchResult,
    Product,
)
from reelhaul_fetcher.model.progress import Watchdog
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_fetcher.ports import ArtifactMetadata, ArtifactStore, Engine, Guard, Scratch
from reelhaul_fetcher.service.cookie_login import SiteCookies
from reelhaul_fetcher.service.progress_reporter import ProgressReporter
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import site_of

T = TypeVar("T")
Succeeded = lease_service_pb2.FinishRequest.Succeeded

#: Failures behind which a refusal of the guard may stand.
_MAY_BE_THE_GUARD = (
    ErrorReason.EXTRACTOR_FAILED,
    ErrorReason.MEDIA_FORBIDDEN,
    ErrorReason.SITE_UNSUPPORTED,
    ErrorReason.UPSTREAM_UNAVAILABLE,
)
# What a pass may carry beyond the media: pages, manifests, what a retry repeats.
_PASS_ROOM = 64 * 1024 * 1024
# Of an attempt's time, so much may be spent on a recording.
_RECORDING_SHARE = 0.85
# What the pages of ten thousand entries weigh, and some.
_LIST_BYTES = 1024 * 1024 * 1024
# What jobs needs to confirm an artifact after the attempt.
_TTL_ROOM = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every fetch here, whatever its job allows."""

    max_seconds: float
    stall_seconds: float
    cpu_seconds: int
    memory_bytes: int = 4 << 30


@dataclass(slots=True)
class Downloader:
    """Turns a lease into stored artifacts."""

    engine: Engine
    guard: Guard
    artifacts: ArtifactStore
    scratch: Scratch
    limits: Limits
    egresses: Egresses = field(default_factory=Egresses)
    site_cookies: SiteCookies = field(default_factory=SiteCookies)

    async def download(
        self, job: str, lease: lease_pb2.Lease, reporter: ProgressReporter
    ) -> tuple[Succeeded, Usage]:
        """Do what *lease* asks. Raises what ended it; the folder and the pass are gone then."""
        if lease.spec.HasField("expansion"):
            return await self._expanded(job, lease, reporter)
        folder, infos = self.scratch.create(job, lease.epoch), list[ArtifactInfo]()
        stamp = _stamp(job, lease)
        reporter.on_ready = lambda product: self.artifacts.prepare(product, stamp)
        try:
            try:
                report, usage = await self._receive(job, lease, folder, reporter)
                await self._store(report.products, stamp, reporter, infos)
            finally:
                await asyncio.shield(self.artifacts.cancel_prepared(folder))
                await asyncio.shield(self.scratch.remove(folder))
        except BaseException:
            await asyncio.shield(self.artifacts.delete([info.name for info in infos]))
            raise
        done = Succeeded(artifacts=infos, media=report.media, got=report.delivered, warnings=report.warnings)
        return done, usage

    async def _expanded(
        self, job: str, lease: lease_pb2.Lease, reporter: ProgressReporter
    ) -> tuple[Succeeded, Usage]:
        """Page through the list; every entry is with jobs when this returns."""
        asked, cookies = lease.spec.expansion, self._cookies(lease)

        def work(proxy_url: str) -> Coroutine[Any, Any, ExpandResult]:
            order = ExpandRequest(
                lease.spec.url, proxy_url, asked.max_entries, asked.start_position, cookies=cookies
            )
            return self.engine.expand(order, reporter)

        report, usage = await self.with_proxy_pass(job, lease, _LIST_BYTES, work, reporter)
        await reporter.wait_entries_sent()
        done = Succeeded(media=report.media)
        if report.truncated:
            text = f"the list has more than the {asked.max_entries} entries that were taken"
            done.warnings.add(reason=media_pb2.Warning.ENTRIES_TRUNCATED, message=text)
        return done, usage

    async def _receive(
        self, job: str, lease: lease_pb2.Lease, folder: Path, reporter: ProgressReporter
    ) -> tuple[FetchResult, Usage]:
        limit = _smaller(lease.spec.quota_bytes, lease.spec.format.max_size_bytes)
        cookies = self._cookies(lease)

        def work(proxy_url: str) -> Coroutine[Any, Any, FetchResult]:
            order = self._order(lease, folder, proxy_url, limit)
            return self.engine.fetch(replace(order, cookies=cookies), reporter)

        return await self.with_proxy_pass(job, lease, limit + _PASS_ROOM if limit else 0, work, reporter)

    async def with_proxy_pass(
        self,
        job: str,
        lease: lease_pb2.Lease,
        byte_limit: int,
        work: Callable[[str], Coroutine[Any, Any, T]],
        reporter: ProgressReporter,
    ) -> tuple[T, Usage]:
        """What *work* makes of a pass of its own, and what went through that."""
        name = f"{job.removeprefix('jobs/')}-{lease.epoch}"
        seconds = lease.spec.attempt_deadline.ToTimedelta().total_seconds()
        proxy_url = await self.guard.open(name, byte_limit, lease.egress, seconds)
        failure: ReelhaulError | None = None
        report: T | None = None
        usage = Usage()
        try:
            report = await self._run(work(proxy_url), lease.spec.url, name, reporter)
        except ReelhaulError as error:
            failure = error
        finally:
            usage = await asyncio.shield(self.guard.close(name))
        self.egresses.record_result(site_of(lease.spec.url), lease.egress, failure)
        failure = self.site_cookies.classify_cookie_failure(
            lease.spec.format.cookies, lease.spec.url, failure
        )
        if report is None:
            assert failure is not None
            raise explain_guard_refusal(failure, usage) from failure
        return report, usage

    def _cookies(self, lease: lease_pb2.Lease) -> str:
        return self.site_cookies.get_text(lease.spec.format.cookies, lease.spec.tenant, lease.spec.url)

    def _order(self, lease: lease_pb2.Lease, folder: Path, proxy_url: str, limit: int) -> FetchRequest:
        asked = lease.spec.format.max_duration.ToTimedelta().total_seconds()
        longest = min(asked or self.limits.max_seconds, self.limits.max_seconds)
        recorded = lease.spec.format.live.max_duration.ToTimedelta().total_seconds()
        deadline = lease.spec.attempt_deadline.ToTimedelta().total_seconds()
        return FetchRequest(
            url=lease.spec.url,
            format=lease.spec.format,
            folder=folder,
            proxy_url=proxy_url,
            size_limit=limit,
            max_seconds=longest,
            record_seconds=min(recorded or longest, longest),
            # What is recorded must be packed and stored before the attempt is over.
            record_timeout_seconds=deadline * _RECORDING_SHARE,
            idle_seconds=self.limits.stall_seconds,
            cpu_seconds=self.limits.cpu_seconds,
            memory_bytes=self.limits.memory_bytes,
            recording_stopped=lease.spec.recording_stopped,
        )

    async def _run(self, work: Coroutine[Any, Any, T], url: str, name: str, reporter: ProgressReporter) -> T:
        """The engine's report. Raises UPSTREAM_STALLED where the pass *name* carries next to nothing."""
        fetch = asyncio.create_task(work)
        patience = self.limits.stall_seconds
        watchdog = Watchdog(patience, time.monotonic())
        try:
            while not (await asyncio.wait({fetch}, timeout=patience / 6))[0]:
                # The guard's count: yt-dlp tells of bytes only when a whole block is there.
                received = (await self.guard.usage(name)).ingress_bytes
                if watchdog.is_stalled(time.monotonic(), reporter.latest.stage, received):
                    raise _stalled(url, patience, reporter.latest.stage)
            return fetch.result()
        finally:
            fetch.cancel()
            await asyncio.wait({fetch})

    async def _store(
        self,
        products: tuple[Product, ...],
        stamp: ArtifactMetadata,
        reporter: ProgressReporter,
        infos: list[ArtifactInfo],
    ) -> None:
        """Store *products*; *infos* holds what is stored, also where that is broken off."""
        total = sum(product.info.size_bytes for product in products)
        done = 0
        reporter.report_upload(0, total)
        for product in products:
            told = partial(_told_above, reporter, done, total)
            infos.append(await self.artifacts.store(product, stamp, told))
            done += product.info.size_bytes
            reporter.report_upload(done, total)


def explain_guard_refusal(failure: ReelhaulError, usage: Usage) -> ReelhaulError:
    """*failure*, or what the guard refused, where that is what stands behind it."""
    if failure.reason not in _MAY_BE_THE_GUARD or not usage.refusals:
        return failure
    host, why = usage.refusals[-1]
    if why == "byte-budget":
        return ReelhaulError(ErrorReason.MEDIA_TOO_LARGE, "more bytes came than the job may receive")
    if why == "time-budget":
        return failure
    return ReelhaulError(
        ErrorReason.URL_FORBIDDEN, f"the guard refused {host}: {why}", metadata={"host": host}
    )


def _stamp(job: str, lease: lease_pb2.Lease) -> ArtifactMetadata:
    ttl = lease.spec.attempt_deadline.ToTimedelta() + _TTL_ROOM
    return ArtifactMetadata(job, lease.epoch, lease.spec.tenant, dict(lease.spec.labels), ttl)


def _stalled(url: str, patience: float, stage: Progress.Stage.ValueType) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.UPSTREAM_STALLED,
        f"next to nothing came for {patience:.0f} s",
        metadata={"host": urlsplit(url).hostname or "", "stage": Progress.Stage.Name(stage)},
    )


def _told_above(reporter: ProgressReporter, before: int, total: int, stored: int) -> None:
    reporter.report_upload(before + stored, total)


def _smaller(one: int, other: int) -> int:
    """The smaller of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other
