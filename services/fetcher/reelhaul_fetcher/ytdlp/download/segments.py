"""Download of a segmented stream, HLS or DASH, into one file for each part with one clock.

The clock of the media may restart at a discontinuity, at another initialization section, and at a period of
DASH. A new part begins there: in one file, parts with overlapping timestamps would play at the same time.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin

from yt_dlp.downloader.hls import HlsFD
from yt_dlp.networking import HEADRequest, Request
from yt_dlp.networking.exceptions import RequestError
from yt_dlp.utils import DownloadError, update_url_query

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.model import hls_playlist, site_limits
from reelhaul_fetcher.model.hls_playlist import Bounds, InitSection, Key, PlaylistUnsupported, segment_kind
from reelhaul_fetcher.model.http_values import parse_decimal
from reelhaul_fetcher.model.timing import play_time
from reelhaul_fetcher.ytdlp.download.fragments import FragmentsChanged, ResumableFragmentDownloader
from reelhaul_fetcher.ytdlp.download.part_table import Part, PartTable, check_count
from reelhaul_fetcher.ytdlp.download.received_folder import link, remove_files
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info
from reelhaul_fetcher.ytdlp.extract import dash_manifest
from reelhaul_fetcher.ytdlp.extract.dash_manifest import DECLARED_SECONDS, IS_OPEN, PRESENTATION_START
from reelhaul_runtime.errors import ReelhaulError

_MAX_PLAYLIST_BYTES = 32 * 1024 * 1024
# AES-128 is what yt-dlp decrypts.
_DECRYPTED_METHODS = frozenset({"AES-128"})
# yt-dlp's messages about a segment without content.
_EMPTY = re.compile(r"fragment (\d{1,9}) not found|Did not get any data blocks")
_COPY_BYTES = 1 << 20
_RANGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SegmentList:
    """The segments of a stream, as yt-dlp's fragments, and the play time that they declare."""

    fragments: list[Info]
    #: Seconds; 0: unknown.
    seconds: float = 0.0
    #: Seconds by which the play time may be shorter: it is rounded, and that of the last segment often wrong.
    tolerance: float = 0.0
    #: The timestamp, in seconds, at which the presentation begins in each part; empty: unknown.
    presentation_starts: tuple[float, ...] = ()


def list_segments(downloader: Downloader, stream: Info) -> SegmentList:
    """Return the segments of *stream*, a playlist of HLS or a representation of DASH.

    Raises FORMAT_UNAVAILABLE for streams that cannot be received completely, MEDIA_IS_LIVE for a playlist
    that may continue, and what ``Downloader.urlopen`` raises.
    """
    if str(stream.get("protocol") or "").startswith("m3u8"):
        return _list_hls(downloader, stream)
    return _list_dash(downloader, stream)


def download_segments(
    downloader: Downloader,
    stream: Info,
    segments: SegmentList,
    path: Path,
    target: Path,
    on_resumed: Callable[[int], None],
) -> list[Path]:
    """Receive the missing *segments* at *path*; return *target*, or a file for each part beside it.

    The parts are in the order of play. *on_resumed* is called with the bytes of an earlier attempt.
    Raises DownloadError, VERIFICATION_FAILED for a segment without the bytes that it should have,
    FORMAT_UNAVAILABLE for too many parts.
    """
    check_count(1 + sum(fragment["restarts"] for fragment in segments.fragments))
    info = {**stream, "fragments": segments.fragments, "requested_formats": None}
    try:
        parts = _receive(_SegmentsDownloader(downloader, on_resumed), path, info)
    except FragmentsChanged:
        remove_files(path)
        parts = _receive(_SegmentsDownloader(downloader, on_resumed), path, info)
    return _split(path, parts, target) if len(parts) > 1 else [link(path, target)]


def _receive(segments_downloader: _SegmentsDownloader, path: Path, info: Info) -> list[Part]:
    try:
        succeeded = segments_downloader.download(str(path), info)[0]
    except DownloadError as error:
        if match := _EMPTY.search(str(error)):
            raise _incomplete(f"segment {match[1]} is empty" if match[1] else "a segment is empty") from error
        raise
    if not succeeded or not path.exists():
        raise DownloadError("the download ended without a file")
    return segments_downloader.parts


class _SegmentsDownloader(ResumableFragmentDownloader):
    """Receives segments, and records the start of each part in the file."""

    FD_NAME = "segments"
    _table: PartTable
    #: Container of the media segments of the current part; empty: any.
    _kind = ""

    @property
    def parts(self) -> list[Part]:
        """The parts of the file received."""
        return self._table.parts

    def real_download(self, filename: str, info: Info) -> bool:
        """Download the fragments of *info* to *filename*."""
        fragments: list[Info] = info["fragments"]
        context: dict[str, Any] = {"filename": filename, "total_frags": len(fragments)}
        self._table = PartTable(Path(f"{filename}.parts"))

        def pack(content: bytes, number: int) -> bytes:
            return self._pack(content, fragments[number - 1], context["dest_stream"].tell())

        return self.receive(Path(filename), fragments, info, context, pack_func=pack)

    def restore_state(self) -> bool:
        """Read the parts that an earlier attempt received."""
        return self._table.restore()

    def _pack(self, content: bytes, fragment: Info, position: int) -> bytes:
        """Return the bytes of *content* to write at *position*; record the start of a part."""
        if (byte_range := fragment["byte_range"]) and not fragment.get("decrypt_info"):
            length = byte_range["end"] - byte_range["start"]
            if len(content) >= byte_range["end"]:
                # The server ignores ranges and sent the whole file.
                content = content[byte_range["start"] : byte_range["end"]]
            if len(content) != length:
                raise _incomplete(f"a byte range of {length} bytes has {len(content)}")
        self._table.remove_from(position)
        last = self.parts[-1] if self.parts else None
        part = None
        kind = segment_kind(content)
        if last is None or fragment["restarts"] or fragment.get("is_init"):
            self._kind = ""
        elif self._kind and kind != self._kind and not fragment.get("is_file"):
            raise _incomplete(f"segment {fragment['frag_index']} is not media in the container of the others")
        self._kind = self._kind or kind
        if fragment.get("is_init"):
            digest = hashlib.sha256(content).hexdigest()
            if last is not None and not fragment["restarts"] and digest == last.digest:
                # The same section at another URL: the clock continues.
                return b""
            part = Part(position, (position, position + len(content)), digest)
        elif last is None or fragment["restarts"]:
            part = Part(position, last.init, last.digest) if last else Part(position)
        if part is not None:
            self._table.append(part)
        return content


def _list_hls(downloader: Downloader, stream: Info) -> SegmentList:
    text, url = stream.get("hls_media_playlist_data"), str(stream["url"])
    if not text:
        response = downloader.urlopen(Request(url, headers=stream.get("http_headers") or {}))
        try:
            url, text = response.url, response.read(_MAX_PLAYLIST_BYTES + 1)
        finally:
            response.close()
        if len(text) > _MAX_PLAYLIST_BYTES:
            raise _unavailable(f"the playlist has more than {_MAX_PLAYLIST_BYTES} bytes")
        text = text.decode("utf-8", "replace")
    if HlsFD._has_drm(text):
        raise ReelhaulError(ErrorReason.MEDIA_DRM_PROTECTED, "the segments are DRM protected")
    try:
        playlist = hls_playlist.parse(text, url)
    except PlaylistUnsupported as error:
        raise _unavailable(str(error)) from error
    if not playlist.is_complete:
        raise _live(stream, "the playlist has no end")
    segments = [s for s in playlist.segments if not (s.is_advertisement or s.is_gap)]
    if not segments:
        raise _unavailable("the playlist has no segments")
    for key in {segment.key for segment in segments if segment.key}:
        if key.method not in _DECRYPTED_METHODS or not key.url:
            raise _unavailable(f"segments encrypted by {key.method} cannot be read")
    declared = _declared_seconds(segments) if playlist.timed else (0.0, 0.0)
    return SegmentList(list(_to_fragments(segments, stream)), *declared)


def _to_fragments(segments: Iterable[hls_playlist.Segment], stream: Info) -> Iterator[Info]:
    """Yield yt-dlp's fragments of *segments*, initialization sections included."""
    query = parse_qs(str(stream.get("extra_param_to_segment_url") or ""))
    keys = _KeyTable(stream)
    number, init, discontinuities = 0, None, None
    for segment in segments:
        restarts = discontinuities not in (None, segment.discontinuities)
        discontinuities = segment.discontinuities
        if segment.init is not None and segment.init != init:
            number += 1
            section: Info = {"is_init": True, "restarts": restarts}
            yield section | _fragment(number, segment.init, segment.number, query, keys)
            restarts = False
        init = segment.init
        number += 1
        yield {"restarts": restarts} | _fragment(number, segment, segment.number, query, keys)


def _fragment(
    number: int,
    source: hls_playlist.Segment | InitSection,
    sequence: int,
    query: dict[str, list[str]],
    keys: _KeyTable,
) -> Info:
    bounds = source.bounds
    return {
        "frag_index": number,
        "url": update_url_query(source.url, query) if query else source.url,
        "byte_range": {"start": bounds[0], "end": bounds[1]} if bounds else None,
        "decrypt_info": keys.find(source.key),
        "media_sequence": sequence,
    }


class _KeyTable:
    """yt-dlp's decryption info for each key; an extractor may override the key."""

    def __init__(self, stream: Info) -> None:
        own = stream.get("hls_aes") or {}
        self._key = binascii.unhexlify(str(own["key"]).removeprefix("0x")) if own.get("key") else None
        self._iv = binascii.unhexlify(str(own["iv"]).removeprefix("0x").zfill(32)) if own.get("iv") else None
        parameters = stream.get("extra_param_to_key_url") or stream.get("extra_param_to_segment_url") or ""
        self._query = parse_qs(str(parameters))
        self._entries: dict[Key, Info] = {}

    def find(self, key: Key | None) -> Info | None:
        """Return yt-dlp's description of *key*, the same object for the same key."""
        if key is None:
            return None
        if key not in self._entries:
            entry: Info = {"METHOD": key.method, "KEY": self._key}
            entry["URI"] = update_url_query(key.url, self._query) if self._query else key.url
            if iv := self._iv or bytes.fromhex(key.iv):
                entry["IV"] = iv
            self._entries[key] = entry
        return self._entries[key]


def _declared_seconds(segments: list[hls_playlist.Segment]) -> tuple[float, float]:
    """Return the play time of *segments*, and by how much it may be shorter, in seconds.

    Whole seconds are rounded, up or down (RFC 8216, 4.3.2.1), and the last segment often has the length
    of the others.
    """
    rounded = sum(segment.is_rounded for segment in segments)
    longest = max(segment.seconds for segment in segments)
    return sum(segment.seconds for segment in segments), rounded + longest


def _list_dash(downloader: Downloader, stream: Info) -> SegmentList:
    """Return the fragments of *stream*; a new period begins a part."""
    if stream.get(IS_OPEN):
        raise _live(stream, "the manifest is dynamic")
    base, fragments = str(stream.get("fragment_base_url") or ""), list[Info]()
    query = parse_qs(str(stream.get("extra_param_to_segment_url") or ""))
    period, lengths, starts = None, list[float](), list[float]()
    for fragment in stream["fragments"]:
        url, bounds = dash_manifest.split_range(fragment.get("url") or urljoin(base, fragment["path"]))
        url = update_url_query(url, query) if query else url
        is_file = bool(fragment.get("is_file"))
        restarts = bool(fragments) and fragment.get("period") != period
        if restarts or not fragments:
            starts.append(fragment.get(PRESENTATION_START, stream.get(PRESENTATION_START)) or 0.0)
        for part in _file_ranges(downloader, stream, url) if is_file else [bounds]:
            fragments.append(
                {
                    "frag_index": len(fragments) + 1,
                    "url": url,
                    "byte_range": {"start": part[0], "end": part[1]} if part else None,
                    "restarts": restarts,
                    "is_file": is_file,
                }
            )
            restarts = False
        period = fragment.get("period")
        if duration := site_limits.number(fragment.get("duration"), site_limits.MAX_SECONDS):
            lengths.append(duration)
    if not fragments:
        raise _unavailable("the manifest has no segments of this stream")
    declared = site_limits.number(stream.get(DECLARED_SECONDS), site_limits.MAX_SECONDS) or 0.0
    seconds, tolerance = sum(lengths), max(lengths, default=0.0)
    if declared and seconds and seconds < declared - max(tolerance, play_time.usual_tolerance(declared)):
        raise _unavailable(f"the manifest declares {declared:.1f} s; its segments play {seconds:.1f} s")
    # The last segment of a template is shorter than the others.
    length = min(seconds, declared) if declared and seconds else declared
    return SegmentList(fragments, length, tolerance, tuple(starts))


def _file_ranges(downloader: Downloader, stream: Info, url: str) -> list[Bounds | None]:
    """Return the ranges in which to download a file, each held in memory; [None]: a single request."""
    headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
    # Many servers reject HEAD; then the size is unknown.
    with suppress(RequestError), downloader.logging_paused():
        response = downloader.urlopen(HEADRequest(url, headers=headers))
        response.close()
        size = parse_decimal(response.headers.get("Content-Length", "")) or 0
        if response.headers.get("Accept-Ranges") == "bytes" and _RANGE_BYTES < size <= site_limits.MAX_BYTES:
            return [(start, min(start + _RANGE_BYTES, size)) for start in range(0, size, _RANGE_BYTES)]
    return [None]


def _split(path: Path, parts: list[Part], target: Path) -> list[Path]:
    """Return a file for each of *parts*, beside *target*."""
    files: list[Path] = []
    starts = [part.start for part in parts]
    with path.open("rb") as source:
        for part, (start, stop) in zip(parts, pairwise([*starts, path.stat().st_size]), strict=True):
            file = target.with_name(f"{target.stem}-{len(files)}{target.suffix}")
            with file.open("wb") as copy:
                if part.init is not None and part.init[0] < start:
                    _copy(source.fileno(), copy.fileno(), part.init)
                _copy(source.fileno(), copy.fileno(), (start, stop))
            files.append(file)
    return files


def _copy(source: int, target: int, bounds: Bounds) -> None:
    position, stop = bounds
    while position < stop:
        position += os.sendfile(target, source, position, min(stop - position, _COPY_BYTES))


def _live(stream: Info, text: str) -> ReelhaulError:
    metadata = {"extractor": str(stream.get("extractor") or "")}
    return ReelhaulError(ErrorReason.MEDIA_IS_LIVE, f"{text}: the media is live", metadata=metadata)


def _unavailable(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)


def _incomplete(text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": "size"})
