"""What a site offers at a URL: one video, its streams by id; asked again where their URLs expire."""

from __future__ import annotations

from typing import Any

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.ytdlp.downloader import Downloader
from reelhaul_fetcher.ytdlp.info import formats_in
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
