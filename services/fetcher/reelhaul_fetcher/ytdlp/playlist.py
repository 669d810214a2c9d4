"""A list in the child: paged through lazily, its entries told as they come, none of them opened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from yt_dlp.utils import PlaylistEntries, sanitize_url, unsmuggle_url

from reelhaul.type.v1.media_pb2 import MediaInfo, PlaylistEntry, Progress
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ExpandRequest, ExpandResult
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, options
from reelhaul_fetcher.ytdlp.fetch import Place
from reelhaul_fetcher.ytdlp.info import entry_of, formats_in, media_of

Info = dict[str, Any]

#: Entries are told at the latest when there are so many of them, or so many seconds old.
_PAGE = 100
_SECONDS = 0.25
# Channels hold tabs, tabs may hold shelves; what is deeper than that goes in circles.
_DEEPEST = 3
_LONGEST_URL = 2048
# What stands in for a video that is there no more, or not for us.
_UNAVAILABLE = frozenset({"[Private video]", "[Deleted video]"})


class Line(Protocol):
    """Where a list is told."""

    def progress(self, progress: Progress) -> None:
        """Newest progress."""

    def media(self, media: MediaInfo) -> None:
        """What the site says of the list."""

    def entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """The next entries."""


def expand(
    order: ExpandRequest, access: EngineOptions, line: Line, answers: ResponseLog, place: Place
) -> ExpandResult:
    """Page through *order*'s list. Raises whatever ends it; what was told before stands."""
    line.progress(Progress(stage=Progress.EXPANDING))
    asked = options(order.proxy_url, access, extract_flat=True, noplaylist=False, lazy_playlist=True)
    with Downloader(answers, asked) as downloader:
        info = _resolved(downloader, {"_type": "url", "url": order.url})
        media = _described(info)
        place.extractor = media.extractor
        line.media(media)
        found = enumerate(_entries(downloader, info, _DEEPEST), 1)
        _tell(islice(found, order.start_position, order.max_entries), order, media.entry_count, line)
        return ExpandResult(media, truncated=next(found, None) is not None)


def _tell(
    found: Iterator[tuple[int, PlaylistEntry | None]], order: ExpandRequest, count: int, line: Line
) -> None:
    expected = min(count or order.max_entries, order.max_entries)
    page: list[PlaylistEntry] = []
    told_at = float("-inf")

    def tell(position: int) -> None:
        nonlocal page, told_at
        line.entries(page)
        progress = Progress(stage=Progress.EXPANDING, entry_count=position)
        if count:
            progress.percent = min(99.0 * position / expected, 99.0)
        line.progress(progress)
        page, told_at = [], time.monotonic()

    for position, entry in found:
        page.append(entry or PlaylistEntry())
        page[-1].position = position
        # The first entry goes out at once: its job need not wait for the list's end.
        if len(page) >= _PAGE or time.monotonic() - told_at > _SECONDS:
            tell(position)
    if page:
        tell(page[-1].position)


def _entries(downloader: Downloader, info: Info, deep: int) -> Iterator[PlaylistEntry | None]:
    """All entries below *info*, those of lists within it in their place; None: not to be had."""
    if not _is_list(info):
        yield _entry(info, {})
        return
    for _, entry in PlaylistEntries(downloader, info).get_requested_items():
        if entry and deep and _may_be_list(downloader, entry, info):
            yield from _entries(downloader, _resolved(downloader, entry), deep - 1)
        else:
            yield _entry(entry, info) if entry else None


def _resolved(downloader: Downloader, info: Info) -> Info:
    """*info*, or what its URL leads to, as the extractor tells it: a list's entries not yet asked for."""
    for _ in range(5):
        if info.get("_type") not in ("url", "url_transparent"):
            break
        url = sanitize_url(info["url"])
        info = downloader.extract_info(url, download=False, ie_key=info.get("ie_key"), process=False)
    return info


def _is_list(info: Info) -> bool:
    return info.get("_type") in ("playlist", "multi_video") or "entries" in info


def _may_be_list(downloader: Downloader, entry: Info, info: Info) -> bool:
    """Whether *entry* of *info* has entries of its own, as a channel's tabs do."""
    if entry.get("_type") not in ("url", "url_transparent"):
        return _is_list(entry)
    key = str(entry.get("ie_key") or "")
    if key not in downloader.extractors:
        return False
    tabs = key.endswith("Tab") and key == info.get("extractor_key")
    return tabs or downloader.get_info_extractor(key).is_single_video(entry["url"]) is False


def _described(info: Info) -> MediaInfo:
    """What the site says of the list, or of the one video, without entries."""
    if not _is_list(info):
        media = media_of({**info, "entries": ()})
        media.entry_count = 1
        return media
    entries = info.get("entries")
    media = media_of({**info, "entries": ()})
    if not media.entry_count and isinstance(entries, list):
        media.entry_count = len(entries)
    return media


def _entry(entry: Info, info: Info) -> PlaylistEntry | None:
    """*entry* of *info* with the URL that its job is to have; None where there is none that fits."""
    url = _page_of(entry, info)
    if not url.startswith(("http://", "https://")) or len(url) > _LONGEST_URL:
        return None
    if entry.get("title") in _UNAVAILABLE or entry.get("availability") == "private":
        return None
    told = entry_of(entry, 0)
    told.url, told.title = url, told.title[:500]
    return told


def _page_of(entry: Info, info: Info) -> str:
    if entry.get("_type") in ("url", "url_transparent"):
        url = unsmuggle_url(str(entry["url"]))[0]
        # Some extractors hand YouTube's on by their bare id.
        bare = entry.get("ie_key") == "Youtube" and "/" not in url
        return f"https://www.youtube.com/watch?v={url}" if bare else str(sanitize_url(url))
    page = str(entry.get("webpage_url") or "")
    if page and page != info.get("webpage_url"):
        return page
    # Several videos on one page, which all have its URL: the media itself is what tells them apart.
    streams = formats_in(entry)
    return str(streams[-1].get("url") or "") if streams else ""
