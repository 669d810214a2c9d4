"""Expansion of playlists and channels: pages through them lazily, without opening their entries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from yt_dlp.utils import PlaylistEntries, sanitize_url

from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ExpandRequest, ExpandResult
from reelhaul_fetcher.model.site_limits import SiteValues
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, ResponseLog, downloader_options
from reelhaul_fetcher.ytdlp.extract.entries import EntryIndex, to_entry
from reelhaul_fetcher.ytdlp.extract.info import to_media_info
from reelhaul_fetcher.ytdlp.process.protocol import FetcherChannel

# Entries are sent when there are this many, or when the last were sent this many seconds ago.
_PAGE_SIZE = 100
_PAGE_SECONDS = 0.25
# Channels hold tabs, and tabs may hold shelves; a deeper nesting is a cycle.
_MAX_DEPTH = 3
_MAX_REDIRECTS = 5


def expand(
    request: ExpandRequest, options: EngineOptions, channel: FetcherChannel, log: ResponseLog
) -> ExpandResult:
    """Page through the request's list. Raises whatever ends it; the entries sent before stay valid."""
    channel.on_progress(Progress(stage=Progress.EXPANDING))
    params = downloader_options(
        request.proxy_url, options, extract_flat=True, noplaylist=False, lazy_playlist=True
    )
    with Downloader(log, params) as downloader:
        info = _resolve(downloader, {"_type": "url", "url": request.url})
        values = SiteValues()
        media = _describe(info, values)
        log.extractor = media.extractor
        channel.on_media(media)
        entries = enumerate(_distinct_entries(downloader, info, values), 1)
        selected = islice(entries, request.start_position, request.max_entries)
        _send(selected, media.entry_count, request.max_entries, channel)
        truncated = next(entries, None) is not None
        return ExpandResult(media, truncated, tuple(values.warnings))


def _send(
    entries: Iterator[tuple[int, PlaylistEntry | None]],
    count: int,
    max_entries: int,
    channel: FetcherChannel,
) -> None:
    """Send *entries* in pages, with progress; *count* is the length of the list, 0 if unknown."""
    expected = min(count or max_entries, max_entries)
    page: list[PlaylistEntry] = []
    sent_at = float("-inf")

    def send(position: int) -> None:
        nonlocal page, sent_at
        channel.on_entries(page)
        progress = Progress(stage=Progress.EXPANDING, entry_count=position)
        if count:
            progress.percent = min(99.0 * position / expected, 99.0)
        channel.on_progress(progress)
        page, sent_at = [], time.monotonic()

    for position, entry in entries:
        page.append(entry or PlaylistEntry())
        page[-1].position = position
        # The first entry is sent at once: its job need not wait for the end of the list.
        if len(page) >= _PAGE_SIZE or time.monotonic() - sent_at > _PAGE_SECONDS:
            send(position)
    if page:
        send(page[-1].position)


def _distinct_entries(
    downloader: Downloader, info: Info, values: SiteValues
) -> Iterator[PlaylistEntry | None]:
    """Yield the entries of *info*; None for an entry that cannot be fetched or is a duplicate."""
    known = EntryIndex()
    for entry, parent in _entries(downloader, info, _MAX_DEPTH):
        result = to_entry(entry, parent, values) if entry else None
        yield result if entry and result and not known.add(entry, result) else None


def _entries(downloader: Downloader, info: Info, depth: int) -> Iterator[tuple[Info | None, Info]]:
    """Yield the entries of *info*, each with its list, those of nested lists in their place."""
    if not _is_list(info):
        yield info, {}
        return
    for _, entry in PlaylistEntries(downloader, info).get_requested_items():
        if entry and depth and _may_be_list(downloader, entry, info):
            yield from _entries(downloader, _resolve(downloader, entry), depth - 1)
        else:
            yield entry, info


def _resolve(downloader: Downloader, info: Info) -> Info:
    """Return *info*, or what its URL leads to; the entries of a list are not requested yet."""
    for _ in range(_MAX_REDIRECTS):
        if info.get("_type") not in ("url", "url_transparent"):
            break
        url = sanitize_url(info["url"])
        info = downloader.extract_info(url, download=False, ie_key=info.get("ie_key"), process=False)
    return info


def _is_list(info: Info) -> bool:
    return info.get("_type") in ("playlist", "multi_video") or "entries" in info


def _may_be_list(downloader: Downloader, entry: Info, info: Info) -> bool:
    """Return whether *entry* of *info* has entries of its own, as the tabs of a channel do."""
    if entry.get("_type") not in ("url", "url_transparent"):
        return _is_list(entry)
    key = str(entry.get("ie_key") or "")
    if key not in downloader.extractors:
        return False
    is_tab = key.endswith("Tab") and key == info.get("extractor_key")
    return is_tab or downloader.get_info_extractor(key).is_single_video(entry["url"]) is False


def _describe(info: Info, values: SiteValues) -> MediaInfo:
    """Return the metadata of the list, or of a single video, without entries."""
    media = to_media_info({**info, "entries": ()}, values)
    entries = info.get("entries")
    if not _is_list(info):
        media.entry_count = 1
    elif not media.entry_count and isinstance(entries, list):
        media.entry_count = len(entries)
    return media
