"""Probe cache: reads the metadata of a URL, once for concurrent callers, and keeps it for minutes."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Estimate, FormatSpec, MediaInfo
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.model.selection import SelectFormats, choose_formats
from reelhaul_fetcher.ports import Engine
from reelhaul_fetcher.service.site_access import SiteAccess
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import site_of

_KEPT_SECONDS = 180
_MAX_KEPT = 500
_TIMEOUT_SECONDS = 60
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


class ProbeCache:
    """Probes URLs, at most *concurrency* at a time."""

    def __init__(
        self, engine: Engine, access: SiteAccess, now: Callable[[], datetime], concurrency: int = 4
    ) -> None:
        self._engine, self._access, self._now = engine, access, now
        self._semaphore = asyncio.Semaphore(concurrency)
        self._results: OrderedDict[ProbeQuery, ProbeResult] = OrderedDict()
        self._running: dict[ProbeQuery, asyncio.Task[ProbeResult]] = {}

    async def probe(self, query: ProbeQuery, *, bypass_cache: bool = False) -> ProbeResult:
        """Return the metadata; with *bypass_cache* the site is asked even if its answer is kept.

        Raises the failure that the site's answer means; URL_FORBIDDEN if the guard refused.
        """
        cached = self._results.get(query)
        if cached and not bypass_cache and (self._now() - cached.time).total_seconds() < _KEPT_SECONDS:
            return cached
        task = self._running.get(query)
        if task is None:
            task = self._running[query] = asyncio.create_task(self._probe(query))
            task.add_done_callback(lambda ended: self._on_done(query, ended))
        # A caller that hangs up must not cancel the probe for the others.
        return await asyncio.shield(task)

    async def estimate(self, media: MediaInfo, spec: FormatSpec) -> Estimate:
        """Return what a job of *spec* would download of *media*. Raises FORMAT_UNAVAILABLE."""
        # In a thread: the engine's ``select_formats`` blocks.
        return await asyncio.to_thread(_estimate, media, spec, self._engine.select_formats)

    def _on_done(self, query: ProbeQuery, task: asyncio.Task[ProbeResult]) -> None:
        del self._running[query]
        if task.cancelled() or task.exception() is not None:
            return
        self._results[query] = task.result()
        self._results.move_to_end(query)
        if len(self._results) > _MAX_KEPT:
            self._results.popitem(last=False)

    async def _probe(self, query: ProbeQuery) -> ProbeResult:
        async with self._semaphore:
            time = self._now()
            cookies = self._access.cookies.get_text(query.cookies, query.tenant, query.url)

            async def probe(proxy_url: str) -> MediaInfo:
                request = ProbeRequest(
                    query.url, proxy_url, query.max_entries, query.playlist, cookies=cookies
                )
                try:
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        return await self._engine.probe(request)
                except TimeoutError:
                    raise _stalled(query.url) from None

            media, _ = await self._access.run(
                probe,
                session=f"probe-{uuid.uuid4()}",
                url=query.url,
                egress=self._access.egresses.choose(site_of(query.url)),
                cookies=query.cookies,
                byte_limit=_BYTE_LIMIT,
                seconds=_TIMEOUT_SECONDS,
            )
            return ProbeResult(media, time)


def _stalled(url: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.UPSTREAM_STALLED,
        f"the site did not answer completely within {_TIMEOUT_SECONDS} s",
        metadata={"host": urlsplit(url).hostname or "", "stage": "PROBING"},
    )


def _estimate(media: MediaInfo, spec: FormatSpec, select_formats: SelectFormats) -> Estimate:
    if media.entries or media.entry_count:
        return Estimate(job_count=media.entry_count or len(media.entries))
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
