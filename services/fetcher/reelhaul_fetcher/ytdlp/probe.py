"""A probe in the child: metadata, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model.engine_options import Access
from reelhaul_fetcher.model.engine_requests import ProbeOrder
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, options
from reelhaul_fetcher.ytdlp.errors import classified
from reelhaul_fetcher.ytdlp.info import media_of
from reelhaul_fetcher.ytdlp.source import check_streams


def probe(order: ProbeOrder, access: Access, answers: ResponseLog) -> MediaInfo:
    """What the site says of *order*'s URL; of a list its first entries, flat."""
    try:
        info = _read(order, access, answers)
    except DownloadError as error:
        # An event that has not begun has no formats, and yet is an answer.
        if classified(error, answers, order.url, "").reason != ErrorReason.MEDIA_NOT_LIVE_YET:
            raise
        info = _read(order, access, answers, ignore_no_formats_error=True)
    if "entries" in info:
        info["entries"] = list(islice(_flat(info["entries"]), order.max_entries))
    elif info.get("live_status") not in ("is_live", "is_upcoming", "post_live"):
        check_streams(info, answers.warnings)
    return media_of(info)


def _read(order: ProbeOrder, access: Access, answers: ResponseLog, **more: Any) -> dict[str, Any]:
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
