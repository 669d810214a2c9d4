"""One stream into one file, by whichever way it is delivered, by a fresh URL where the first is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.ytdlp.download.http_file import FileDownload
from reelhaul_fetcher.ytdlp.download.parallel import Hear
from reelhaul_fetcher.ytdlp.download.remote_file import Remote
from reelhaul_fetcher.ytdlp.downloader import Downloader, supported
from reelhaul_fetcher.ytdlp.errors import chain
from reelhaul_fetcher.ytdlp.source import Source
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]

#: Extensions that a stream's file may have: the site names them, so they are held to a list.
_EXTENSIONS = frozenset(
    {"mp4", "m4a", "m4v", "webm", "mkv", "weba", "mka", "mov", "ts", "flv", "3gp", "avi"}
    | {"mp3", "opus", "ogg", "oga", "ogv", "flac", "wav", "aac", "ac3"}
)


def is_plain_http(stream: Info) -> bool:
    """Whether *stream* is one file that a GET brings."""
    odd = any(stream.get(key) for key in ("fragments", "request_data", "impersonate"))
    a_part = "Range" in (stream.get("http_headers") or {})
    return stream.get("protocol") in ("http", "https") and not odd and not a_part


def download_stream(source: Source, part: str, stem: Path, size: int | None, hear: Hear) -> Path:
    """The file of stream *part*, its name *stem* and an extension; *hear* is told of a plain file's bytes.

    Raises FORMAT_UNAVAILABLE for a way of delivery that we do not have, VERIFICATION_FAILED where it
    has not *size* bytes, and whatever yt-dlp does.
    """
    before = source.streams[part]
    extension = str(before.get("ext"))
    # Numbered by us: a site's format id is data, and may hold anything.
    path = stem.with_suffix(f".{extension if extension in _EXTENSIONS else 'bin'}")
    arrival = FileDownload(path, source.downloader.params["concurrent_fragment_downloads"], hear)
    try:
        _fetch(source.downloader, {**source.info, **before}, arrival)
    except (DownloadError, RequestError) as error:
        if not _is_refusal(error) or not source.renew() or part not in source.streams:
            raise
        after = source.streams[part]
        if _version(before) is None or _version(before) != _version(after):
            # Another file may be there by now: its bytes do not go after those of the old one.
            arrival.forget()
            for left in stem.parent.glob(f"{stem.name}.*"):
                left.unlink()
        _fetch(source.downloader, {**source.info, **after}, arrival)
    _check_length(path, size)
    return path


def _fetch(downloader: Downloader, stream: Info, arrival: FileDownload) -> None:
    protocol = str(stream.get("protocol") or "")
    if not supported(protocol):
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE, f"streams that come by {protocol or 'this way'} are not fetched"
        )
    if is_plain_http(stream):
        # What an advertisement is shown before is not handed out until it is over.
        time.sleep(max(0.0, float(stream.get("available_at") or 0) - time.time()))
        arrival.receive(Remote(downloader, stream))
        return
    stream.pop("requested_formats", None)
    succeeded, _ = downloader.dl(str(arrival.path), stream)
    if not succeeded or not arrival.path.exists():
        raise DownloadError("the download ended without a file")


def _check_length(path: Path, size: int | None) -> None:
    received = path.stat().st_size
    if not received or (size is not None and received != size):
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"{received} bytes were received of {size if size is not None else 'some'}",
            metadata={"check": "size"},
        )


def _is_refusal(error: BaseException) -> bool:
    return any(isinstance(link, HTTPError) and link.status in (403, 410) for link in chain(error))


def _version(stream: Info) -> tuple[str, str] | None:
    """What a URL of YouTube's media servers says of the file behind it: its length, and when it was made."""
    query = parse_qs(urlsplit(str(stream.get("url"))).query)
    length, made = query.get("clen"), query.get("lmt")
    return (length[0], made[0]) if length and made else None
