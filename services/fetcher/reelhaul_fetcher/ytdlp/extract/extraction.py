"""Extraction: reads what a site offers at a URL, one video or the metadata of anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.model.site_limits import SiteValues
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, ResponseLog, downloader_options
from reelhaul_fetcher.ytdlp.errors import classify
from reelhaul_fetcher.ytdlp.extract.entries import to_entry
from reelhaul_fetcher.ytdlp.extract.info import playable_formats, to_format_id, to_media_info
from reelhaul_runtime.errors import ReelhaulError

# Warnings of yt-dlp that do not state a cause.
_NO_CAUSE = re.compile(r"only images|falling back on generic", re.IGNORECASE)


class NoStreamsError(Exception):
    """A video has no stream that can be downloaded; the text is yt-dlp's last warning, *ie* its extractor."""

    def __init__(self, text: str, ie: str) -> None:
        super().__init__(text)
        self.ie = ie


class Source:
    """The video at a URL, with *title* if its list has one.

    Raises what yt-dlp raises, and SITE_UNSUPPORTED for a list.
    """

    def __init__(self, downloader: Downloader, url: str, title: str = "") -> None:
        self.downloader, self._url, self._title = downloader, url, title
        self.info = self._extract()
        #: yt-dlp's formats by format id.
        self.streams = _by_format_id(self.info)
        self._is_renewed = False

    def renew(self) -> bool:
        """Extract again, for URLs that have not expired; False if that was done before."""
        if self._is_renewed:
            return False
        self._is_renewed = True
        self.info = self._extract()
        self.streams = _by_format_id(self.info)
        return True

    def _extract(self) -> Info:
        info = _extract_video(self.downloader, self._url)
        if self._title:
            info["title"] = self._title
        return info


def probe(request: ProbeRequest, options: EngineOptions, log: ResponseLog) -> MediaInfo:
    """Return the metadata of the request's URL; of a list, with its first entries, flattened."""
    try:
        info = _extract(request, options, log)
    except DownloadError as error:
        # An event that has not begun has no formats; its metadata is the answer.
        if classify(error, log, request.url).reason != ErrorReason.MEDIA_NOT_LIVE_YET:
            raise
        info = _extract(request, options, log, ignore_no_formats_error=True)
    values = SiteValues()
    if "entries" in info:
        listed = islice(_flatten(info, info["entries"]), request.max_entries)
        entries = (to_entry(entry, parent, values, n) for n, (entry, parent) in enumerate(listed, 1))
        return to_media_info(info, values, filter(None, entries))
    if info.get("live_status") not in ("is_live", "is_upcoming", "post_live"):
        check_streams(info, log.warnings)
    _remove_number(info)
    return to_media_info(info, values)


def check_streams(info: Info, warnings: list[str]) -> None:
    """Raise MEDIA_DRM_PROTECTED or NoStreamsError if *info* has no stream that can be downloaded."""
    if playable_formats(info):
        return
    if info.get("_has_drm"):
        raise ReelhaulError(ErrorReason.MEDIA_DRM_PROTECTED, "every stream of this media is DRM protected")
    causes = [warning for warning in warnings if not _NO_CAUSE.search(warning)]
    text = "; ".join(["no stream that plays was offered", *causes[-1:]])
    raise NoStreamsError(text, str(info.get("extractor") or ""))


def _extract(request: ProbeRequest, options: EngineOptions, log: ResponseLog, **overrides: Any) -> Info:
    params = downloader_options(
        request.proxy_url,
        options,
        extract_flat="in_playlist",
        playlistend=request.max_entries,
        noplaylist=not request.playlist,
        **overrides,
    )
    with Downloader(log, params) as downloader:
        info: Info = downloader.extract_info(request.url, download=False, process=True)
    return info


def _flatten(info: Info, entries: Iterable[Info | None]) -> Iterator[tuple[Info, Info]]:
    """Yield *entries* of *info*, each with its list, those of nested lists in their place.

    A channel is a list of lists.
    """
    for entry in entries:
        if entry and "entries" in entry:
            yield from _flatten(entry, entry["entries"])
        elif entry:
            yield entry, info


def _extract_video(downloader: Downloader, url: str) -> Info:
    """Return yt-dlp's info dict of the one video at *url*."""
    info: Info = downloader.extract_info(url, download=False, process=True)
    if "entries" not in info:
        _remove_number(info)
        return info
    entries = [entry for entry in info["entries"] if entry]
    # The first of several videos embedded in a page is the page's own. A feed, whose id is its URL, and a
    # list of another extractor are no video.
    is_feed = info.get("id") == info.get("original_url")
    if entries and info.get("extractor") == "generic" and not is_feed:
        # The title of the page: those of its videos are numbered.
        return {**entries[0], "title": info.get("title") or entries[0].get("title")}
    raise ReelhaulError(
        ErrorReason.SITE_UNSUPPORTED,
        "this URL is a list, not one video: download it as a playlist"
        if entries
        else "the page has no media",
        metadata={"host": ""},
    )


def _remove_number(info: Info) -> None:
    """Restore the title of the only video of a page: yt-dlp numbers the videos of a page in their titles."""
    if info.get("extractor") == "html5":
        info["title"] = str(info.get("title") or "").removesuffix(" (1)")


def _by_format_id(info: Info) -> dict[str, Info]:
    best = playable_formats(info)[-site_limits.MAX_FORMATS :]
    return {to_format_id(stream): stream for stream in best}
