"""Receiving media bytes: each stream into its own file, counted, limited, checked by length."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from yt_dlp.networking import HEADRequest
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.download.parallel import FileDownload, Hear
from reelhaul_fetcher.ytdlp.download.remote_file import Remote
from reelhaul_fetcher.ytdlp.downloader import Downloader, supported
from reelhaul_fetcher.ytdlp.errors import chain
from reelhaul_fetcher.ytdlp.extraction import Source
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]

# Estimates from a bitrate are off by about this much; they alone refuse nothing nearer.
_DOUBT = 1.3
_USUAL_AUDIO_KBPS = 128


class Meter:
    """Hears yt-dlp's progress hook, from any thread."""

    def __init__(self, gauge: ProgressTracker, size_limit: int) -> None:
        self._gauge, self._limit = gauge, size_limit
        #: The part that is being received; "" while there is none, e.g. for subtitles.
        self.part = ""

    def hear(self, told: Info) -> None:
        """yt-dlp's word of how far it is. Raises MEDIA_TOO_LARGE past the limit."""
        received = int(told.get("downloaded_bytes") or 0)
        if not self.part or not received:
            return
        self._gauge.update_part(self.part, received, _fraction(told))
        self._check()

    def count(self, received: int, total: int | None) -> None:
        """The part that is being received has *received* of *total* bytes. Raises MEDIA_TOO_LARGE."""
        if self.part and received:
            self._gauge.update_part(self.part, received, received / total if total else None)
            self._check()

    def _check(self) -> None:
        if self._limit and self._gauge.received > self._limit:
            raise too_large(self._gauge.received, self._limit)


def receive(
    source: Source, parts: list[str], order: FetchRequest, gauge: ProgressTracker, meter: Meter
) -> list[Path]:
    """The files of the streams whose ids are *parts*, in their order.

    Raises FORMAT_UNAVAILABLE for a way of delivery that we do not have, MEDIA_TOO_LARGE,
    VERIFICATION_FAILED for a wrong length.
    """
    streams = [source.streams[part] for part in parts]
    sizes = [_size(source.downloader, stream, len(parts) > 1) for stream in streams]
    seconds = float(source.info.get("duration") or 0)
    guesses = [_estimated(stream, seconds) for stream in streams]
    _check_room(sizes, guesses if seconds else [], order.size_limit)
    known = sum(size for size in sizes if size) if all(sizes) else None
    gauge.set_plan(dict(zip(parts, sizes if known else guesses, strict=True)), known)
    files: list[Path] = []
    for part, size in zip(parts, sizes, strict=True):
        meter.part = part
        gauge.begin_stage(Progress.DOWNLOADING, _detail(source.streams[part]))
        hear = meter.count if known else partial(_heard, gauge, meter, order.size_limit)
        files.append(download_stream(source, part, order.folder / f"stream{len(files)}", size, hear))
        meter.part = ""
    return files


def _heard(gauge: ProgressTracker, meter: Meter, limit: int, received: int, total: int | None) -> None:
    """Count what came of the only part, whose length is told with its first byte."""
    if total and not received:
        _check_room([total], [], limit)
        gauge.set_plan({meter.part: total}, total)
    meter.count(received, total)


def _size(downloader: Downloader, stream: Info, one_of_several: bool) -> int | None:
    """Exact bytes of *stream*; None where neither the page nor the server tells, or it will in time."""
    if stream.get("filesize"):
        return int(stream["filesize"])
    if not one_of_several or not is_plain_http(stream):
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
