"""One stream of what is on air: segments as they come, until the end, a limit, or silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError

from reelhaul.backoff import LONGEST_SECONDS, exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.hls_playlist import Playlist, Segment
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.download.streams import too_large
from reelhaul_fetcher.ytdlp.downloader import Downloader, body
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
# What is answered so is not there, and will not be.
_GONE = (404, 410)


class LiveStreamRecorder:
    """One stream, from now to its end."""

    def __init__(
        self,
        downloader: Downloader,
        stream: Info,
        part: str,
        path: Path,
        order: FetchRequest,
        gauge: ProgressTracker,
        enough: Callable[[], Reason.ValueType],
    ) -> None:
        #: Play time that is kept, what is missing within it counted.
        self.seconds = 0.0
        #: All that are recorded side by side, this one too.
        self.all = [self]
        self._downloader, self._stream, self._part, self._path = downloader, stream, part, path
        self._order, self._gauge, self._enough = order, gauge, enough
        self._received, self._init = 0, ""
        self._target = 6.0
        self._missing = 0.0
        self._alive_at = time.monotonic()
        self._away = False

    def run(self) -> Reason.ValueType:
        """Record; what ended it before its end."""
        limit, patience = self._order.record_seconds, self._order.record_timeout_seconds
        give_up = time.monotonic() + patience if patience else None
        with self._path.open("wb") as file:
            for segment in self._segments():
                self._keep(file, segment)
                if (limit and self.seconds >= limit) or (give_up and time.monotonic() >= give_up):
                    return Warned.RECORDING_CUT
        return self._enough() or (Warned.RECORDING_CUT if self._away else Warned.REASON_UNSPECIFIED)

    def _segments(self) -> Iterator[Segment]:
        """New segments as they come; ends with the broadcast, when it fell silent, or when it is enough."""
        last = -1
        while (playlist := self._playlist()) is not None:
            self._target = playlist.target
            fresh = [segment for segment in playlist.segments if segment.number > last]
            if last < 0 and not playlist.ended and not self._order.format.live.from_start:
                fresh = fresh[-_BEHIND_EDGE:]
            for left, segment in zip(reversed(range(len(fresh))), fresh, strict=True):
                last = segment.number
                yield segment
                if self._is_enough and self._may_end(left):
                    return
            silent = time.monotonic() - self._alive_at > 3 * self._target + _SILENCE_SECONDS
            if playlist.ended or silent or self._waited(min(max(self._target / 2, 0.3), 5.0)):
                return

    def _may_end(self, left: int) -> bool:
        """Whether it may end here, with *left* segments that can be had now."""
        if self._missing:
            return True
        # Near the edge all streams end there; far behind it that could take hours.
        return left >= _BEHIND_EDGE and self.seconds >= max(take.seconds for take in self.all)

    @property
    def _is_enough(self) -> bool:
        """Whether it is to end, and there is something to keep."""
        return bool(self.seconds and self._enough())

    def _waited(self, seconds: float) -> bool:
        """Wait; whether it was enough meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._is_enough:
                return True
            time.sleep(min(left, _LOOK_SECONDS))
        return False

    def _playlist(self) -> Playlist | None:
        """What can be had now, nothing while the site is away; None where what had begun is gone."""
        try:
            playlist = self._again(lambda: read(self._downloader, self._stream))
        except ValueError as error:
            raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, str(error)) from error
        except RequestError as error:
            if not self.seconds:
                raise
            self._away = not _gone(error)
            return Playlist((), self._target, ended=False) if self._away else None
        self._away = False
        return playlist

    def _keep(self, file: BinaryIO, segment: Segment) -> None:
        """Write *segment*, or leave it out where it cannot be had and others were."""
        prepared = segment.init_url in (self._init, "") or self._wrote(file, segment.init_url)
        if not (prepared and self._wrote(file, segment.url)):
            self._missing += segment.seconds
            return
        self._init = segment.init_url
        self.seconds += self._missing + segment.seconds
        self._missing, self._alive_at = 0.0, time.monotonic()

    def _wrote(self, file: BinaryIO, url: str) -> bool:
        """Write what *url* holds; False where that cannot be had. Raises where it is the first."""
        request = Request(url, headers=self._stream.get("http_headers") or {})
        try:
            content = self._again(lambda: body(self._downloader, request, _MAX_SEGMENT))
        except RequestError:
            if not self.seconds:
                raise
            return False
        file.write(content)
        self._received += len(content)
        self._gauge.update_part(self._part, self._received)
        if self._order.size_limit and self._gauge.received > self._order.size_limit:
            raise too_large(self._gauge.received, self._order.size_limit)
        return True

    def _again(self, step: Callable[[], T]) -> T:
        """What *step* gives, tried again where the network fails it, and that is waited for."""
        for turn in range(_TRIES - 1):
            try:
                return step()
            except RequestError as error:
                delay = exponential_delay(turn, 0.3, LONGEST_SECONDS)
                if self.seconds and (_gone(error) or self._waited(delay)):
                    raise
                if not self.seconds:
                    time.sleep(delay)
        return step()


def read(downloader: Downloader, stream: Info) -> Playlist:
    """The playlist of *stream* as it is now. Raises RequestError, ValueError."""
    request = Request(stream["url"], headers=stream.get("http_headers") or {})
    text = body(downloader, request, _MAX_PLAYLIST).decode("utf-8", "replace")
    return hls_playlist.read(text, stream["url"])


def _gone(error: RequestError) -> bool:
    return isinstance(error, HTTPError) and error.status in _GONE
