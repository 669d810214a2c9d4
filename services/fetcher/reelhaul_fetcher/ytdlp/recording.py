"""Recording what is on air: segments as they come, until the end, a limit, or silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import RequestError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model import playlists
from reelhaul_fetcher.model.gauge import Gauge
from reelhaul_fetcher.model.orders import FetchOrder
from reelhaul_fetcher.model.playlists import Playlist, Segment
from reelhaul_fetcher.ytdlp.downloader import Downloader, body
from reelhaul_fetcher.ytdlp.receiving import too_large
from reelhaul_fetcher.ytdlp.source import Source
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]
T = TypeVar("T")
#: Why a recording ended before its broadcast; REASON_UNSPECIFIED: it did not.
Reason = Warned.Reason

_MAX_PLAYLIST = 8 * 1024 * 1024
_MAX_SEGMENT = 256 * 1024 * 1024
# Who joins now begins a few segments behind the edge, as players do.
_BEHIND_EDGE = 3
_TRIES = 4
# Without a new segment for so long, and three more, the broadcast is over.
_SILENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded: a file for each stream, the seconds of it, and what ended it before its end."""

    files: list[Path]
    seconds: float
    cut: Reason.ValueType

    @property
    def warnings(self) -> list[Warned]:
        """That a limit, or its user, ended it, where one did."""
        asked = " by request" if self.cut == Warned.RECORDING_STOPPED else ""
        text = f"the recording was stopped{asked} after {self.seconds:.0f} s"
        return [Warned(reason=self.cut, message=text)] if self.cut else []


def on_air(source: Source, part: str) -> bool:
    """Whether stream *part* is a playlist that goes on: some sites do not say that they are live."""
    stream = source.streams[part]
    if not str(stream.get("protocol") or "").startswith("m3u8"):
        return False
    try:
        return not _read(source.downloader, stream).ended
    except (RequestError, OSError, ValueError):
        return False


def record(
    source: Source, parts: list[str], order: FetchOrder, gauge: Gauge, enough: Callable[[], Reason.ValueType]
) -> Recording:
    """Record the streams whose ids are *parts*, side by side, as long as *order* allows, or until *enough*.

    Raises FORMAT_UNAVAILABLE for what cannot be recorded, MEDIA_TOO_LARGE.
    """
    gauge.plan(dict.fromkeys(parts), None)
    files = [order.folder / f"stream{number}.ts" for number in range(len(parts))]
    takes = [
        _Take(source.downloader, {**source.info, **source.streams[part]}, part, path, order, gauge, enough)
        for part, path in zip(parts, files, strict=True)
    ]
    for take in takes:
        take.all = takes
    with ThreadPoolExecutor(len(takes)) as pool:
        ends = list(pool.map(_Take.run, takes))
    return Recording(files, min(take.seconds for take in takes), max(ends))


class _Take:
    """One stream, from now to its end."""

    def __init__(
        self,
        downloader: Downloader,
        stream: Info,
        part: str,
        path: Path,
        order: FetchOrder,
        gauge: Gauge,
        enough: Callable[[], Reason.ValueType],
    ) -> None:
        self.seconds = 0.0
        #: All that are recorded side by side, this one too.
        self.all = [self]
        self._downloader, self._stream, self._part, self._path = downloader, stream, part, path
        self._order, self._gauge, self._enough = order, gauge, enough
        self._received = 0

    def run(self) -> Reason.ValueType:
        """Record; what ended it before its end."""
        limit, patience = self._order.record_seconds, self._order.patience_seconds
        give_up = time.monotonic() + patience if patience else None
        init = ""
        with self._path.open("wb") as file:
            for segment in self._segments():
                if segment.init_url != init:
                    init = segment.init_url
                    self._write(file, init)
                self._write(file, segment.url)
                self.seconds += segment.seconds
                if (limit and self.seconds >= limit) or (give_up and time.monotonic() >= give_up):
                    return Warned.RECORDING_CUT
        return self._enough()

    def _segments(self) -> Iterator[Segment]:
        """New segments as they come; ends with the broadcast, or when it has fallen silent."""
        last, fresh_at = -1, time.monotonic()
        while True:
            playlist = self._playlist(begun=last >= 0)
            if playlist is None:
                return
            fresh = [segment for segment in playlist.segments if segment.number > last]
            if last < 0 and not playlist.ended and not self._order.format.live.from_start:
                fresh = fresh[-_BEHIND_EDGE:]
            for left, segment in zip(reversed(range(len(fresh))), fresh, strict=True):
                last, fresh_at = segment.number, time.monotonic()
                yield segment
                # Near the edge all streams end there; far behind it that could take hours.
                if left >= _BEHIND_EDGE and self._enough() and self._foremost:
                    return
            silent = time.monotonic() - fresh_at > 3 * playlist.target + _SILENCE_SECONDS
            if (
                playlist.ended
                or silent
                or self._waited(min(max(playlist.target / 2, 0.3), 5.0), begun=last >= 0)
            ):
                return

    @property
    def _foremost(self) -> bool:
        return self.seconds >= max(take.seconds for take in self.all)

    def _waited(self, seconds: float, *, begun: bool) -> bool:
        """Wait; whether it was enough meanwhile, and there is something to keep."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if begun and self._enough():
                return True
            time.sleep(min(left, _LOOK_SECONDS))
        return False

    def _playlist(self, *, begun: bool) -> Playlist | None:
        """What can be had now; None where a broadcast that had begun is gone."""
        try:
            return _again(lambda: _read(self._downloader, self._stream))
        except ValueError as error:
            raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, str(error)) from error
        except RequestError:
            if not begun:
                raise
            return None

    def _write(self, file: BinaryIO, url: str) -> None:
        request = Request(url, headers=self._stream.get("http_headers") or {})
        content = _again(lambda: body(self._downloader, request, _MAX_SEGMENT))
        file.write(content)
        self._received += len(content)
        self._gauge.receive(self._part, self._received)
        if self._order.size_limit and self._gauge.received > self._order.size_limit:
            raise too_large(self._gauge.received, self._order.size_limit)


def _read(downloader: Downloader, stream: Info) -> Playlist:
    request = Request(stream["url"], headers=stream.get("http_headers") or {})
    text = body(downloader, request, _MAX_PLAYLIST).decode("utf-8", "replace")
    return playlists.read(text, stream["url"])


def _again(step: Callable[[], T]) -> T:
    """What *step* gives, tried again where the network fails it."""
    for turn in range(_TRIES - 1):
        try:
            return step()
        except RequestError:
            time.sleep(0.3 * 2**turn)
    return step()


def lost() -> ReelhaulError:
    """RECORDING_LOST: nothing is on air of which a moment could be kept."""
    text = "its recording was lost with the worker that had it, and what was on air is over"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)


def wanted(spec: FormatSpec) -> bool:
    """Whether *spec* asks for what is live to be recorded."""
    return spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD)
