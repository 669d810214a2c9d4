"""What a site offers at a URL: one video, its streams by id; asked again where their URLs expire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import ProbeRequest
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, options
from reelhaul_fetcher.ytdlp.errors import classified
from reelhaul_fetcher.ytdlp.info import formats_in, media_of
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]


class NoStreams(Exception):
    """A video was found, but nothing that plays; the text is what yt-dlp said last."""


class Source:
    """The one video at a URL. Raises whatever yt-dlp does, SITE_UNSUPPORTED for a list."""

    def __init__(self, downloader: Downloader, url: str) -> None:
        self.downloader, self._url = downloader, url
        self.info = _read(downloader, url)
        self.streams = _by_id(self.info)
        self._renewed = False

    def renew(self) -> bool:
        """Ask the site again, for URLs that it honours; once only: False where that was done before."""
        if self._renewed:
            return False
        self._renewed = True
        self.info = _read(self.downloader, self._url)
        self.streams = _by_id(self.info)
        return True


def check_streams(info: Info, warnings: list[str]) -> None:
    """Raise MEDIA_DRM_PROTECTED or NoStreams where there is nothing in *info* that plays."""
    if formats_in(info):
        return
    if info.get("_has_drm"):
        raise ReelhaulError(ErrorReason.MEDIA_DRM_PROTECTED, "every stream of this media is DRM protected")
    # That only images are left is said last of all, and says nothing of the cause.
    causes = [warning for warning in warnings if "only images" not in warning.lower()]
    raise NoStreams("; ".join(["no stream that plays was offered", *causes[-1:]]))


def _read(downloader: Downloader, url: str) -> Info:
    """yt-dlp's info of the one video at *url*."""
    info: Info = downloader.extract_info(url, download=False, process=True)
    if "entries" not in info:
        # yt-dlp numbers the videos of a page in their titles, a single one too.
        if info.get("extractor") == "html5":
            info["title"] = str(info.get("title") or "").removesuffix(" (1)")
        return info
    entries = [entry for entry in info["entries"] if entry]
    # A page may embed several videos: the first is the page's own. A list is not media.
    if entries and info.get("extractor") == "generic":
        # yt-dlp numbers the titles of a page's videos.
        return {**entries[0], "title": info.get("title") or entries[0].get("title")}
    raise ReelhaulError(
        ErrorReason.SITE_UNSUPPORTED,
        "this URL is a list, not one video" if entries else "the page holds no media",
        metadata={"host": ""},
    )


def _by_id(info: Info) -> dict[str, Info]:
    return {str(stream.get("format_id") or ""): stream for stream in formats_in(info)}


def probe(order: ProbeRequest, access: EngineOptions, answers: ResponseLog) -> MediaInfo:
    """What the site says of *order*'s URL; of a list its first entries, flat."""
    try:
        info = _read_for_probe(order, access, answers)
    except DownloadError as error:
        # An event that has not begun has no formats, and yet is an answer.
        if classified(error, answers, order.url, "").reason != ErrorReason.MEDIA_NOT_LIVE_YET:
            raise
        info = _read_for_probe(order, access, answers, ignore_no_formats_error=True)
    if "entries" in info:
        info["entries"] = list(islice(_flat(info["entries"]), order.max_entries))
    elif info.get("live_status") not in ("is_live", "is_upcoming", "post_live"):
        check_streams(info, answers.warnings)
    return media_of(info)


def _read_for_probe(
    order: ProbeRequest, access: EngineOptions, answers: ResponseLog, **more: Any
) -> dict[str, Any]:
    asked = options(
        order.proxy_url,
        access,
        extract_flat="in_playlist",
        playlistend=order.max_entries,
        noplaylist=not order.playlist,
        **more,
    )
    with Downloader(answers, asked) as downloader:
        info: dict[str, Any] = downloader.extract_info(order.url, download=False, process=True)
    return info


def _flat(entries: Iterable[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    """*entries* with those of the lists among them in their place: a channel is a list of lists."""
    for entry in entries:
        if entry and "entries" in entry:
            yield from _flat(entry["entries"])
        elif entry:
            yield entry
