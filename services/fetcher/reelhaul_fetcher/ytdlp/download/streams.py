"""Download of the streams chosen: each into its own file, counted, limited, and checked by its length.

The files outlive an attempt, under names that identify the stream: the next attempt receives the rest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from yt_dlp.networking import HEADRequest
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import DownloadError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.http_values import parse_decimal
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.site_limits import MAX_BYTES, MAX_SECONDS, MAX_TIME, number, whole
from reelhaul_fetcher.model.timing.cuts import clip_range
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.download.parallel import FileDownload, OnBytes
from reelhaul_fetcher.ytdlp.download.received_folder import ReceivedFolder, link, remove_files
from reelhaul_fetcher.ytdlp.download.remote_file import RemoteFile
from reelhaul_fetcher.ytdlp.download.segments import SegmentList, download_segments, list_segments
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, is_native
from reelhaul_fetcher.ytdlp.edit_plan import clip_out_of_range
from reelhaul_fetcher.ytdlp.errors import error_chain
from reelhaul_fetcher.ytdlp.extract.dash_manifest import DECLARED_SECONDS, PRESENTATION_START
from reelhaul_fetcher.ytdlp.extract.extraction import Source
from reelhaul_fetcher.ytdlp.extract.info import to_format_id
from reelhaul_runtime.errors import ReelhaulError

# Sizes estimated from a bitrate are off by up to this factor: they alone refuse nothing below it.
_ESTIMATE_TOLERANCE = 1.3
_USUAL_AUDIO_KBPS = 128
_MAX_ADVERTISEMENT_SECONDS = 300.0
_SEGMENTED_PROTOCOLS = frozenset({"m3u8", "m3u8_native", "http_dash_segments"})

# The site names the extension of a stream; any other becomes "bin".
_EXTENSIONS = frozenset(
    {"mp4", "m4a", "m4v", "webm", "mkv", "weba", "mka", "mov", "ts", "flv", "3gp", "avi"}
    | {"mp3", "opus", "ogg", "oga", "ogv", "flac", "wav", "aac", "ac3"}
)


class ByteMeter:
    """Reports received bytes to a tracker and enforces the job's size limit. Called from any thread.

    *resumed* is called with the bytes that an earlier attempt received.
    """

    def __init__(
        self, tracker: ProgressTracker, size_limit: int, resumed: Callable[[int], None] = lambda _: None
    ) -> None:
        self._tracker, self._size_limit, self._resumed = tracker, size_limit, resumed
        #: Format id of the stream that is being received; empty during anything else, e.g. subtitles.
        self.format_id = ""

    def on_hook(self, status: Info) -> None:
        """Handle a call of yt-dlp's progress hook. Raises MEDIA_TOO_LARGE."""
        received = int(status.get("downloaded_bytes") or 0)
        if self.format_id and received:
            self._update(received, _completed_fraction(status))

    def on_bytes(self, received: int, total: int | None) -> None:
        """Handle that *received* of *total* bytes are here. Raises MEDIA_TOO_LARGE."""
        if self.format_id and received:
            self._update(received, received / total if total else None)

    def on_resumed(self, received: int) -> None:
        """Count *received* bytes of the stream from an earlier attempt."""
        if self.format_id and (new := self._tracker.resume_part(self.format_id, received)):
            self._resumed(new)

    def _update(self, received: int, fraction: float | None) -> None:
        self._tracker.update_part(self.format_id, received, fraction)
        if self._size_limit and self._tracker.received > self._size_limit:
            raise media_too_large(self._tracker.received, self._size_limit)


def download_streams(
    source: Source,
    format_ids: list[str],
    request: FetchRequest,
    folder: ReceivedFolder,
    tracker: ProgressTracker,
    meter: ByteMeter,
    first_number: int = 0,
) -> list[ReceivedStream]:
    """Download the streams *format_ids* through *folder*; return them in this order.

    Their files are numbered from *first_number*.

    Raises FORMAT_UNAVAILABLE for a stream that cannot be received completely, CLIP_OUT_OF_RANGE,
    MEDIA_IS_LIVE, MEDIA_TOO_LARGE, VERIFICATION_FAILED for a wrong length, and what yt-dlp raises.
    """
    streams = [source.streams[format_id] for format_id in format_ids]
    # Checked before the download of any media.
    segments = [_list_segments(source, stream) for stream in streams]
    _check_clip(request, segments)
    sizes = [_size(source.downloader, stream, is_only=len(format_ids) == 1) for stream in streams]
    duration = number(source.info.get("duration"), MAX_SECONDS) or 0.0
    estimates = [_estimate_size(stream, duration) for stream in streams]
    _check_size_limit(sizes, estimates if duration else [], request.size_limit)
    total = sum(size for size in sizes if size) if all(sizes) else None
    tracker.set_plan(dict(zip(format_ids, sizes if total else estimates, strict=True)), total)
    paths = [folder.claim(_file_name(source.info, stream)) for stream in streams]
    received: list[ReceivedStream] = []
    for format_id, size, listed, path in zip(format_ids, sizes, segments, paths, strict=True):
        meter.format_id = format_id
        tracker.begin_stage(Progress.DOWNLOADING, _detail(source.streams[format_id]))
        on_bytes = meter.on_bytes if total else partial(_plan_by_length, tracker, meter, request.size_limit)
        target = request.folder / f"stream{first_number + len(received)}{path.suffix}"
        transfer = _Transfer(path, target, on_bytes, meter.on_resumed)
        received.append(_download_stream(source, format_id, transfer, size, listed))
        meter.format_id = ""
    return received


def media_too_large(size: int, limit: int) -> ReelhaulError:
    """Return MEDIA_TOO_LARGE: *size* bytes exceed the job's limit."""
    return ReelhaulError(
        ErrorReason.MEDIA_TOO_LARGE,
        f"the media has {size} bytes or more; at most {limit} are allowed",
        metadata={"sizeBytes": str(size), "limitBytes": str(limit)},
    )


def _plan_by_length(
    tracker: ProgressTracker, meter: ByteMeter, limit: int, received: int, total: int | None
) -> None:
    """Handle bytes of the only stream, whose length is known with its first byte."""
    if total and not received:
        _check_size_limit([total], [], limit)
        tracker.set_plan({meter.format_id: total}, total)
    meter.on_bytes(received, total)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """The path at which a stream is received, the path of the complete file, and the progress callbacks."""

    path: Path
    target: Path
    on_bytes: OnBytes
    on_resumed: Callable[[int], None]


def _file_name(info: Info, stream: Info) -> str:
    """Return the name of the file of *stream*: the same in each attempt, and of no other stream."""
    media = [str(info.get(key)) for key in ("extractor", "id")]
    identity = [*media, to_format_id(stream), stream.get("protocol"), _youtube_version(stream)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    extension = str(stream.get("ext"))
    return f"{digest}.{extension if extension in _EXTENSIONS else 'bin'}"


def _download_stream(
    source: Source, format_id: str, transfer: _Transfer, size: int | None, segments: SegmentList | None
) -> ReceivedStream:
    """Download one stream, or the rest of it; renew the URLs if they are refused."""
    stream = source.streams[format_id]
    try:
        received = _receive(source.downloader, {**source.info, **stream}, transfer, segments)
    except (DownloadError, RequestError) as error:
        if not _is_refusal(error) or not source.renew() or format_id not in source.streams:
            raise
        renewed = source.streams[format_id]
        if _youtube_version(stream) != _youtube_version(renewed):
            remove_files(transfer.path)
        segments = _list_segments(source, renewed)
        # Continues like another attempt, because the file may have changed.
        received = _receive(source.downloader, {**source.info, **renewed}, transfer, segments)
    if segments is not None:
        return received
    if received.is_complete and _youtube_version(stream) is None:
        # The length that the server reports takes precedence over that of the page.
        size = None
    _check_length(transfer.target, size)
    # Set for a single file in a manifest.
    declared = number(stream.get(DECLARED_SECONDS), MAX_SECONDS) or 0.0
    return replace(
        received,
        declared_seconds=declared,
        is_complete=size is not None or received.is_complete,
        presentation_starts=(stream.get(PRESENTATION_START) or 0.0,),
    )


def _list_segments(source: Source, stream: Info) -> SegmentList | None:
    """Return the segments of *stream*; None if it has none."""
    protocol = str(stream.get("protocol") or "")
    if not is_native(protocol):
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE,
            f"streams over {protocol or 'an unknown protocol'} are not supported",
        )
    is_segmented = protocol in _SEGMENTED_PROTOCOLS
    return list_segments(source.downloader, {**source.info, **stream}) if is_segmented else None


def _check_clip(request: FetchRequest, segments: list[SegmentList | None]) -> None:
    """Raise CLIP_OUT_OF_RANGE if the clip starts after the end of all segments."""
    clip = clip_range(request.format)
    ends = [listed.seconds + listed.tolerance if listed else 0.0 for listed in segments]
    if clip and all(ends) and clip.start >= max(ends):
        raise clip_out_of_range(clip.start, max(listed.seconds for listed in segments if listed))


def _receive(
    downloader: Downloader, stream: Info, transfer: _Transfer, segments: SegmentList | None
) -> ReceivedStream:
    path, target = transfer.path, transfer.target
    if segments is not None:
        files = download_segments(downloader, stream, segments, path, target, transfer.on_resumed)
        starts = segments.presentation_starts
        return ReceivedStream(tuple(files), segments.seconds, segments.tolerance, presentation_starts=starts)
    if _is_plain_http(stream):
        # YouTube serves a stream behind an advertisement only when that would be over.
        available_at = number(stream.get("available_at"), MAX_TIME) or 0.0
        time.sleep(min(max(0.0, available_at - time.time()), _MAX_ADVERTISEMENT_SECONDS))
        connections = downloader.params["concurrent_fragment_downloads"]
        download = FileDownload(path, connections, transfer.on_bytes, transfer.on_resumed)
        download.download(RemoteFile(downloader, stream))
        return ReceivedStream((link(path, target),), is_complete=download.is_complete)
    # yt-dlp would continue the file unchecked.
    remove_files(path)
    stream.pop("requested_formats", None)
    succeeded, _ = downloader.dl(str(path), stream)
    if not succeeded or not path.exists():
        raise DownloadError("the download ended without a file")
    return ReceivedStream((link(path, target),), is_complete=False)


def _is_plain_http(stream: Info) -> bool:
    """Return whether a plain GET request returns *stream* as one file."""
    is_special = any(stream.get(key) for key in ("fragments", "request_data", "impersonate"))
    is_part = "Range" in (stream.get("http_headers") or {})
    return stream.get("protocol") in ("http", "https") and not is_special and not is_part


def _check_length(path: Path, size: int | None) -> None:
    received = path.stat().st_size
    if not received or (size is not None and received != size):
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"received {received} of {size if size is not None else 'an unknown number of'} bytes",
            metadata={"check": "size"},
        )


def _is_refusal(error: BaseException) -> bool:
    return any(isinstance(link, HTTPError) and link.status in (403, 410) for link in error_chain(error))


def _youtube_version(stream: Info) -> tuple[str, str] | None:
    """Return length and modification time of the file, which URLs of YouTube's media servers tell."""
    query = parse_qs(urlsplit(str(stream.get("url"))).query)
    length, modified = query.get("clen"), query.get("lmt")
    return (length[0], modified[0]) if length and modified else None


def _size(downloader: Downloader, stream: Info, *, is_only: bool) -> int | None:
    """Return the exact bytes of *stream*; None if neither the page nor the server tells.

    The server is not asked about an only stream: the download itself will tell.
    """
    if size := whole(stream.get("filesize"), MAX_BYTES):
        return size
    if is_only or not _is_plain_http(stream):
        return None
    headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
    # Many servers reject HEAD; then the size is unknown.
    with suppress(RequestError, ValueError), downloader.logging_paused():
        response = downloader.urlopen(HEADRequest(stream["url"], headers=headers))
        response.close()
        return parse_decimal(response.headers.get("Content-Length", "")) or None
    return None


def _estimate_size(stream: Info, duration: float) -> float | None:
    """Estimate the bytes of *stream* from its bitrate; bytes per second if *duration* is 0.

    None if the bitrate is unknown. For audio a usual one is assumed; for video there is none.
    """
    usual = _USUAL_AUDIO_KBPS if stream.get("vcodec") == "none" else None
    rate = number(stream.get("tbr"), MAX_BYTES) or usual
    return rate * 125 * (duration or 1.0) if rate else None


def _check_size_limit(sizes: list[int | None], estimates: list[float | None], limit: int) -> None:
    exact = sum(size or 0 for size in sizes)
    estimated = sum(estimate or 0 for estimate in estimates)
    if limit and (exact > limit or estimated > limit * _ESTIMATE_TOLERANCE):
        raise media_too_large(int(max(exact, estimated)), limit)


def _completed_fraction(status: Info) -> float | None:
    """Return how much of the stream is here, 0..1. Of fragments: yt-dlp's estimate of their total is wild."""
    count = status.get("fragment_count")
    if count:
        return min(float(status.get("fragment_index") or 0) / float(count), 1.0)
    total = status.get("total_bytes")
    return float(status["downloaded_bytes"]) / float(total) if total else None


def _detail(stream: Info) -> str:
    kind = "audio" if stream.get("vcodec") == "none" else "video"
    return f"{kind} {to_format_id(stream)}"[:100]
