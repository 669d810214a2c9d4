"""Probe cache: reads the metadata of a URL, once for concurrent callers, and keeps it for minutes."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec, MediaInfo
from reelhaul_fetcher import metrics
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.model.selection import SelectFormats, choose_formats
from reelhaul_fetcher.ports import Engine
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import site_of
from reelhaul_runtime.tracing import spans

_KEPT_SECONDS = 180
# Results, and their bytes: one may have a megabyte.
_MAX_KEPT, _MAX_KEPT_BYTES = 500, 32 << 20
# Wall clock: a site that sends a byte a second, or redirects for ever, occupies a place no longer than that.
_TIMEOUT_SECONDS = 60
# A tenant whose sites never answer leaves a place to the others.
_MAX_RUNNING, _MAX_RUNNING_PER_TENANT = 5, 4
# Probes that run or wait. At a usual 3 s each, the last of them waits about as long as callers do, 50 s.
_MAX_PROBES, _MAX_PROBES_PER_TENANT = 64, 32
_RETRY_DELAY = timedelta(seconds=5)
# Pages and manifests, no media.
_BYTE_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProbeQuery:
    """What to read; equal queries share one answer."""

    url: str
    max_entries: int = 50
    playlist: bool = False
    #: Name of the cookies to use and the tenant that they belong to; both empty without cookies.
    cookies: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the site answered, and when it was asked."""

    media: MediaInfo
    time: datetime
    #: Bytes of the media's message.
    size: int


@dataclass(slots=True)
class _Probe:
    """A probe that runs or waits, and how many callers await it."""

    task: asyncio.Task[ProbeResult]
    callers: int = 0


@dataclass(slots=True)
class _TenantProbes:
    """The probes of one tenant that run or wait; the semaphore limits those that run."""

    semaphore: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_RUNNING_PER_TENANT))
    count: int = 0


class ProbeCache:
    """Probes URLs, a limited number at a time, and no longer than somebody waits for the answer."""

    def __init__(
        self,
        engine: Engine,
        access: SiteAccess,
        now: Callable[[], datetime],
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._engine, self._access, self._now = engine, access, now
        self._timeout_seconds = timeout_seconds
        self._semaphore = asyncio.Semaphore(_MAX_RUNNING)
        self._results: OrderedDict[ProbeQuery, ProbeResult] = OrderedDict()
        self._kept_bytes = 0
        # Those that callers may join.
        self._running: dict[ProbeQuery, _Probe] = {}
        # All that have not ended, also those that are being cancelled.
        self._count = 0
        self._tenants: dict[str, _TenantProbes] = {}

    async def probe(self, query: ProbeQuery, tenant: str = "", *, bypass_cache: bool = False) -> ProbeResult:
        """Return the metadata; with *bypass_cache* the site is asked even if its answer is kept.

        A new probe counts against the limit of *tenant*; it is cancelled once its last caller is.
        Raises the failure that the site's answer means; URL_FORBIDDEN if the guard refused;
        OVERLOADED if too many probes run and wait.
        """
        cached = self._results.get(query)
        if cached and not bypass_cache and (self._now() - cached.time).total_seconds() < _KEPT_SECONDS:
            metrics.PROBE_CACHE.labels("hit").inc()
            return cached
        probe = self._running.get(query)
        metrics.PROBE_CACHE.labels("joined" if probe else "miss").inc()
        probe = probe or self._start(query, tenant)
        probe.callers += 1
        try:
            # A caller that hangs up must not cancel the probe for the others.
            return await asyncio.shield(probe.task)
        finally:
            probe.callers -= 1
            if not probe.callers and not probe.task.done():
                # Nobody joins it from now on.
                del self._running[query]
                probe.task.cancel()

    async def estimate(self, media: MediaInfo, spec: FormatSpec) -> Estimate:
        """Return what a job of *spec* would download of *media*. Raises FORMAT_UNAVAILABLE."""
        # In a thread: the engine's ``select_formats`` blocks.
        return await asyncio.to_thread(_estimate, media, spec, self._engine.select_formats)

    def _start(self, query: ProbeQuery, tenant: str) -> _Probe:
        """Start a probe. Raises OVERLOADED."""
        if self._count >= _MAX_PROBES:
            raise _overloaded(f"{_MAX_PROBES} probes run and wait, the limit of this fetcher")
        probes = self._tenants.get(tenant) or _TenantProbes()
        if probes.count >= _MAX_PROBES_PER_TENANT:
            raise _overloaded(f"{_MAX_PROBES_PER_TENANT} probes run and wait, the limit of a tenant")
        self._tenants[tenant] = probes
        probes.count += 1
        self._count += 1
        task = asyncio.create_task(self._probe(query, probes.semaphore))
        probe = self._running[query] = _Probe(task)
        task.add_done_callback(lambda _: self._on_done(query, probe, tenant))
        return probe

    def _on_done(self, query: ProbeQuery, probe: _Probe, tenant: str) -> None:
        self._count -= 1
        self._tenants[tenant].count -= 1
        if not self._tenants[tenant].count:
            del self._tenants[tenant]
        if self._running.get(query) is probe:
            del self._running[query]
        task = probe.task
        if task.cancelled() or task.exception() is not None:
            return
        self._keep(query, task.result())

    def _keep(self, query: ProbeQuery, result: ProbeResult) -> None:
        """Cache *result*, and evict the oldest results beyond the limits."""
        if earlier := self._results.pop(query, None):
            self._kept_bytes -= earlier.size
        self._results[query] = result
        self._kept_bytes += result.size
        while len(self._results) > _MAX_KEPT or self._kept_bytes > _MAX_KEPT_BYTES:
            self._kept_bytes -= self._results.popitem(last=False)[1].size

    async def _probe(self, query: ProbeQuery, tenant_semaphore: asyncio.Semaphore) -> ProbeResult:
        async with tenant_semaphore, self._semaphore:
            time = self._now()
            cookies = self._access.cookies.get_text(query.cookies, query.tenant, query.url)

            async def probe(proxy_url: str) -> MediaInfo:
                request = ProbeRequest(
                    query.url, proxy_url, query.max_entries, query.playlist, cookies=cookies
                )
                try:
                    async with asyncio.timeout(self._timeout_seconds):
                        with spans.start("probe"):
                            return await self._engine.probe(request)
                except TimeoutError:
                    raise _stalled(query.url, self._timeout_seconds) from None

            media, _ = await self._access.run(
                probe,
                session=f"probe-{uuid.uuid4()}",
                url=query.url,
                egress=self._access.egresses.choose(site_of(query.url)),
                cookies=query.cookies,
                byte_limit=_BYTE_LIMIT,
                seconds=self._timeout_seconds,
            )
            return ProbeResult(media, time, media.ByteSize())


def _overloaded(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.OVERLOADED, f"{text}: try again later", retry_delay=_RETRY_DELAY)


def _stalled(url: str, seconds: float) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.UPSTREAM_STALLED,
        f"the site did not answer completely within {seconds:g} s",
        metadata={"host": urlsplit(url).hostname or "", "stage": "PROBING"},
    )


def _count_entries(media: MediaInfo) -> int:
    """Return the number of jobs of a list: entries are counted once, without those that cannot be fetched.

    If not all entries were read, it is the number that the site states.
    """
    listed = len({entry.url for entry in media.entries})
    is_whole = bool(media.entries) and media.entries[-1].position >= media.entry_count
    return listed if is_whole else media.entry_count or listed


def _estimate(media: MediaInfo, spec: FormatSpec, select_formats: SelectFormats) -> Estimate:
    if media.entries or media.entry_count:
        return Estimate(job_count=_count_entries(media))
    if not media.formats:
        return Estimate(job_count=1)
    formats, warnings = choose_formats(list(media.formats), spec, select_formats)
    result = Estimate(formats=formats, job_count=1, warnings=warnings)
    seconds = media.duration.ToTimedelta().total_seconds()
    sizes = [f.size_bytes or int(f.bitrate_bps / 8 * seconds) for f in formats]
    if formats and all(sizes):
        result.size_bytes = sum(sizes)
        result.size_estimated = any(f.size_estimated or not f.size_bytes for f in formats)
    return result
