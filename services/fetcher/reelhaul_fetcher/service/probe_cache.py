"""Probes: metadata of a URL, asked once for all who ask at the same time, and kept for minutes."""

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
from reelhaul_fetcher.model.egresses import Egresses
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.model.selection import SelectFormats, choose_formats
from reelhaul_fetcher.ports import Engine, Guard
from reelhaul_fetcher.service.cookie_login import SiteCookies
from reelhaul_fetcher.service.download import explain_guard_refusal
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.sites import site_of

_KEPT_SECONDS = 180
_LONGEST_SECONDS = 60
_KEPT_PROBES = 500
# A page, its manifests: not the media.
_BYTE_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProbeQuery:
    """What is asked of a URL; equal ones are one."""

    url: str
    max_entries: int = 50
    playlist: bool = False
    #: The name of cookies to ask with, and whose they are; without a name, nobody's.
    cookies: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a site said, and when it was asked."""

    media: MediaInfo
    time: datetime


class ProbeCache:
    """Answers questions about URLs, at most *width* at a time."""

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        now: Callable[[], datetime],
        width: int = 4,
        egresses: Egresses | None = None,
        signing: SiteCookies | None = None,
    ) -> None:
        self._engine, self._guard, self._now = engine, guard, now
        self._egresses, self._signing = egresses or Egresses(), signing or SiteCookies()
        self._width = asyncio.Semaphore(width)
        self._kept: OrderedDict[ProbeQuery, ProbeResult] = OrderedDict()
        self._asking: dict[ProbeQuery, asyncio.Task[ProbeResult]] = {}

    async def probe(self, question: ProbeQuery, *, fresh: bool = False) -> ProbeResult:
        """What the site says. *fresh* asks it even where the answer is kept.

        Raises what the site's answer means, URL_FORBIDDEN where the guard refused.
        """
        kept = self._kept.get(question)
        if kept and not fresh and (self._now() - kept.time).total_seconds() < _KEPT_SECONDS:
            return kept
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.create_task(self._ask(question))
            task.add_done_callback(lambda ended: self._asked(question, ended))
        # Who hangs up must not take the answer from the others.
        return await asyncio.shield(task)

    async def estimate(self, media: MediaInfo, spec: FormatSpec) -> Estimate:
        """Return what a job of *spec* would download of *media*. Raises FORMAT_UNAVAILABLE."""
        # In a thread: the engine's ``select_formats`` blocks.
        return await asyncio.to_thread(_estimate, media, spec, self._engine.select_formats)

    def _asked(self, question: ProbeQuery, task: asyncio.Task[ProbeResult]) -> None:
        del self._asking[question]
        if task.cancelled() or task.exception() is not None:
            return
        self._kept[question] = task.result()
        self._kept.move_to_end(question)
        if len(self._kept) > _KEPT_PROBES:
            self._kept.popitem(last=False)

    async def _ask(self, question: ProbeQuery) -> ProbeResult:
        async with self._width:
            name = f"probe-{uuid.uuid4()}"
            at, site = self._now(), site_of(question.url)
            cookies = self._signing.get_text(question.cookies, question.tenant, question.url)
            egress = self._egresses.choose(site)
            failure: ReelhaulError | None = None
            media: MediaInfo | None = None
            url = await self._guard.open(name, _BYTE_LIMIT, egress, _LONGEST_SECONDS)
            order = ProbeRequest(question.url, url, question.max_entries, question.playlist, cookies=cookies)
            try:
                async with asyncio.timeout(_LONGEST_SECONDS):
                    media = await self._engine.probe(order)
            except ReelhaulError as error:
                failure = error
            except TimeoutError:
                failure = _stalled(question.url)
            finally:
                usage = await asyncio.shield(self._guard.close(name))
            self._egresses.record_result(site, egress, failure)
            failure = self._signing.classify_cookie_failure(question.cookies, question.url, failure)
            if failure is not None:
                raise explain_guard_refusal(failure, usage) from failure
            assert media is not None
            return ProbeResult(media, at)


def _stalled(url: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.UPSTREAM_STALLED,
        f"the site did not answer in full within {_LONGEST_SECONDS} s",
        metadata={"host": urlsplit(url).hostname or "", "stage": "PROBING"},
    )


def _estimate(media: MediaInfo, spec: FormatSpec, select_formats: SelectFormats) -> Estimate:
    if media.entries or media.entry_count:
        return Estimate(job_count=media.entry_count or len(media.entries))
    if not media.formats:
        return Estimate(job_count=1)
    chosen, warnings = choose_formats(list(media.formats), spec, select_formats)
    told = Estimate(formats=chosen, job_count=1, warnings=warnings)
    seconds = media.duration.ToTimedelta().total_seconds()
    sizes = [f.size_bytes or int(f.bitrate_bps / 8 * seconds) for f in chosen]
    if chosen and all(sizes):
        told.size_bytes = sum(sizes)
        told.size_estimated = any(f.size_estimated or not f.size_bytes for f in chosen)
    return told
