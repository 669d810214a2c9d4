"""Receiving media bytes: each stream into its own file, counted, limited, checked by length."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from yt_dlp.networking import HEADRequest
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.gauge import Gauge
from reelhaul_fetcher.model.orders import FetchOrder
from reelhaul_fetcher.ytdlp.downloader import Downloader, supported
from reelhaul_fetcher.ytdlp.failures import chain
from reelhaul_fetcher.ytdlp.source import Source
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]

# Estimates from a bitrate are off by about this much; they alone refuse nothing nearer.
_DOUBT = 1.3
_USUAL_AUDIO_KBPS = 128
#: Extensions that a stream's file may have: the site names them, so they are held to a list.
_EXTENSIONS = frozenset(
    {"mp4", "m4a", "m4v", "webm", "mkv", "weba", "mka", "mov", "ts", "flv", "3gp", "avi"}
    | {"mp3", "opus", "ogg", "oga", "ogv", "flac", "wav", "aac", "ac3"}
)


class Meter:
    """Hears yt-dlp's progress hook, from any thread."""

    def __init__(self, gauge: Gauge, size_limit: int) -> None:
        self._gauge, self._limit = gauge, size_limit
        #: The part that is being received; "" while there is none, e.g. for subtitles.
        self.part = ""

    def hear(self, told: Info) -> None:
        """yt-dlp's word of how far it is. Raises MEDIA_TOO_LARGE past the limit."""
        received = int(told.get("downloaded_bytes") or 0)
        if not self.part or not received:
            return
        self._gauge.receive(self.part, received, _fraction(told))
        if self._limit and self._gauge.received > self._limit:
            raise too_large(self._gauge.received, self._limit)


def receive(source: Source, parts: list[str], order: FetchOrder, gauge: Gauge, meter: Meter) -> list[Path]:
    """The files of the streams whose ids are *parts*, in their order.

    Raises FORMAT_UNAVAILABLE for a way of delivery that we do not have, MEDIA_TOO_LARGE,
    VERIFICATION_FAILED for a wrong length.
    """
    streams = [source.streams[part] for part in parts]
    sizes = [_size(source.downloader, stream) for stream in streams]
    seconds = float(source.info.get("duration") or 0)
    guesses = [_estimated(stream, seconds) for stream in streams]
    _check_room(sizes, guesses if seconds else [], order.size_limit)
    known = sum(size for size in sizes if size) if all(sizes) else None
    gauge.plan(dict(zip(parts, sizes if known else guesses, strict=True)), known)
    files: list[Path] = []
    for part, size in zip(parts, sizes, strict=True):
        meter.part = part
        gauge.stage(Progress.DOWNLOADING, _detail(source.streams[part]))
        files.append(_honoured(source, part, order.folder / f"stream{len(files)}", size))
        meter.part = ""
    return files


def _honoured(source: Source, part: str, stem: Path, size: int | None) -> Path:
    """The file of stream *part*; by a fresh URL where the site honours the one it gave no more."""
    before = source.streams[part]
    try:
        return _one(source.downloader, {**source.info, **before}, stem, size)
    except (DownloadError, RequestError) as error:
        if not _is_refusal(error) or not source.renew() or part not in source.streams:
            raise
    after = source.streams[part]
    if _version(before) is None or _version(before) != _version(after):
        # Another file may be there by now: its bytes do not go after those of the old one.
        for left in stem.parent.glob(f"{stem.name}.*"):
            left.unlink()
    return _one(source.downloader, {**source.info, **after}, stem, size)


def _is_refusal(error: BaseException) -> bool:
    return any(isinstance(link, HTTPError) and link.status in (403, 410) for link in chain(error))


def _version(stream: Info) -> tuple[str, str] | None:
    """What a URL of YouTube's media servers says of the file behind it: its length, and when it was made."""
    query = parse_qs(urlsplit(str(stream.get("url"))).query)
    length, made = query.get("clen"), query.get("lmt")
    return (length[0], made[0]) if length and made else None


def _one(downloader: Downloader, stream: Info, stem: Path, size: int | None) -> Path:
    protocol = str(stream.get("protocol") or "")
    if not supported(protocol):
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE, f"streams that come by {protocol or 'this way'} are not fetched"
        )
    extension = str(stream.get("ext"))
    # Numbered by us: a site's format id is data, and may hold anything.
    path = stem.with_suffix(f".{extension if extension in _EXTENSIONS else 'bin'}")
    stream.pop("requested_formats", None)
    succeeded, _ = downloader.dl(str(path), stream)
    if not succeeded or not path.exists():
        raise DownloadError("the download ended without a file")
    received = path.stat().st_size
    if not received or (size is not None and received != size):
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"{received} bytes were received of {size if size is not None else 'some'}",
            metadata={"check": "size"},
        )
    return path


def _size(downloader: Downloader, stream: Info) -> int | None:
    """Exact bytes of *stream*; None where neither the page nor the server tells."""
    if stream.get("filesize"):
        return int(stream["filesize"])
    if stream.get("fragments") or stream.get("protocol") not in ("http", "https"):
        return None
    headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
    # Many servers refuse HEAD: then nothing is known, and nothing is wrong.
    with suppress(RequestError, ValueError), downloader.unnoted():
        answer = downloader.urlopen(HEADRequest(stream["url"], headers=headers))
        answer.close()
        return int(answer.headers.get("Content-Length", "")) or None
    return None


def _estimated(stream: Info, seconds: float) -> float | None:
    """About how many bytes *stream* has, from its bitrate; bytes a second where *seconds* is 0.

    None where its bitrate is not known: sound has one that is usual, pictures have not.
    """
    rate = stream.get("tbr") or (_USUAL_AUDIO_KBPS if stream.get("vcodec") == "none" else None)
    return float(rate) * 125 * (seconds or 1.0) if rate else None


def _check_room(sizes: list[int | None], guesses: list[float | None], limit: int) -> None:
    exact = sum(size or 0 for size in sizes)
    guessed = sum(guess or 0 for guess in guesses)
    if limit and (exact > limit or guessed > limit * _DOUBT):
        raise too_large(int(max(exact, guessed)), limit)


def too_large(size: int, limit: int) -> ReelhaulError:
    """The media passes the job's limit."""
    return ReelhaulError(
        ErrorReason.MEDIA_TOO_LARGE,
        f"the media has {size} bytes or more; at most {limit} are allowed",
        metadata={"sizeBytes": str(size), "limitBytes": str(limit)},
    )


def _fraction(told: Info) -> float | None:
    """How far the part is, 0..1. yt-dlp's estimate of fragmented totals is wild: fragments are counted."""
    count = told.get("fragment_count")
    if count:
        done = float(told.get("fragment_index") or 0)
        return min(done / float(count), 1.0)
    total = told.get("total_bytes")
    return float(told["downloaded_bytes"]) / float(total) if total else None


def _detail(stream: Info) -> str:
    what = "audio" if stream.get("vcodec") == "none" else "video"
    return f"{what} {stream['format_id']}"[:100]
