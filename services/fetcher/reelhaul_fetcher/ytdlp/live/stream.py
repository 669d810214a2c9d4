"""Recording of one format of a live stream: appends segments until the end, a limit, or silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError

from reelhaul.backoff import LONGEST_SECONDS, exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.hls_playlist import Playlist, Segment
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.download.streams import media_too_large
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, read_body
from reelhaul_runtime.errors import ReelhaulError

_T = TypeVar("_T")
#: Why a recording ended before the live stream did; REASON_UNSPECIFIED: it did not.
StopReason = MediaWarning.Reason

_MAX_PLAYLIST_BYTES = 8 * 1024 * 1024
_MAX_SEGMENT_BYTES = 256 * 1024 * 1024
# A recording begins this many segments behind the live edge, as players do.
_EDGE_SEGMENTS = 3
_MAX_TRIES = 4
_FIRST_DELAY = 0.3
# The live stream is over if no segment appears for this long, plus three target durations.
_SILENCE_SECONDS = 20.0
_POLL_SECONDS = 0.2
_MIN_REFRESH_SECONDS, _MAX_REFRESH_SECONDS = 0.3, 5.0
# A recording takes about as long as it plays, and longer behind a slow site; whatever the playlist says,
# it ends after this many times its play time and these seconds, or after a day if that is unlimited.
_MAX_SLOWNESS, _SPARE_SECONDS, _LONGEST_SECONDS = 2.0, 60.0, 24 * 3600.0
# Statuses of what is gone for good.
_GONE = (404, 410)


class LiveStreamRecorder:
    """Records one format, from now to its end."""

    def __init__(
        self,
        downloader: Downloader,
        stream: Info,
        format_id: str,
        path: Path,
        request: FetchRequest,
        tracker: ProgressTracker,
        stop_reason: Callable[[], StopReason.ValueType],
    ) -> None:
        #: Play time recorded, gaps included.
        self.seconds = 0.0
        #: All recorders of this live stream, this one included.
        self.parallel = [self]
        self._downloader, self._stream, self._format_id, self._path = downloader, stream, format_id, path
        self._request, self._tracker, self._stop_reason = request, tracker, stop_reason
        self._received, self._init_url = 0, ""
        self._target_seconds = 6.0
        #: Play time of the segments that are missing since the last one recorded.
        self._gap_seconds = 0.0
        self._last_segment_at = time.monotonic()
        self._deadline = time.monotonic() + recording_time_limit(request)
        self._is_site_down = False

    def run(self) -> StopReason.ValueType:
        """Record; return what ended the recording before the live stream ended."""
        limit = self._request.record_seconds
        with self._path.open("wb") as file:
            for segment in self._segments():
                self._append(file, segment)
                if (limit and self.seconds >= limit) or self._is_overdue():
                    return MediaWarning.RECORDING_CUT
        is_cut = self._is_site_down or self._is_overdue()
        default = MediaWarning.RECORDING_CUT if is_cut else MediaWarning.REASON_UNSPECIFIED
        return self._stop_reason() or default

    def _segments(self) -> Iterator[Segment]:
        """Yield segments as they appear, until the live stream ends or falls silent, or a stop."""
        last = -1
        while (playlist := self._refresh_playlist()) is not None:
            self._target_seconds = playlist.target_seconds
            new = [segment for segment in playlist.segments if segment.number > last]
            if last < 0 and not playlist.ended and not self._request.format.live.from_start:
                new = new[-_EDGE_SEGMENTS:]
            for left, segment in zip(reversed(range(len(new))), new, strict=True):
                last = segment.number
                yield segment
                if self._should_stop() and self._may_stop(left):
                    return
            silence = time.monotonic() - self._last_segment_at
            is_silent = silence > 3 * self._target_seconds + _SILENCE_SECONDS
            refresh = min(max(self._target_seconds / 2, _MIN_REFRESH_SECONDS), _MAX_REFRESH_SECONDS)
            if playlist.ended or is_silent or self._wait(refresh) or self._is_overdue():
                return

    def _is_overdue(self) -> bool:
        return time.monotonic() >= self._deadline

    def _should_stop(self) -> bool:
        """Return whether a stop is requested and there is something to keep."""
        return bool(self.seconds and self._stop_reason())

    def _may_stop(self, left: int) -> bool:
        """Return whether a stop may happen here, with *left* segments available now."""
        if self._gap_seconds:
            return True
        # Near the live edge all formats stop there; far behind it, reaching it could take hours.
        return left >= _EDGE_SEGMENTS and self.seconds >= max(other.seconds for other in self.parallel)

    def _wait(self, seconds: float) -> bool:
        """Wait; return at once, and True, if a stop is requested."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._should_stop():
                return True
            time.sleep(min(left, _POLL_SECONDS))
        return False

    def _refresh_playlist(self) -> Playlist | None:
        """Return the playlist, an empty one while the site is down, or None once it is gone for good."""
        try:
            playlist = self._retry(lambda: fetch_playlist(self._downloader, self._stream))
        except ValueError as error:
            raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, str(error)) from error
        except RequestError as error:
            if not self.seconds:
                raise
            self._is_site_down = not _is_gone(error)
            return Playlist((), self._target_seconds, ended=False) if self._is_site_down else None
        self._is_site_down = False
        return playlist

    def _append(self, file: BinaryIO, segment: Segment) -> None:
        """Write *segment*, or leave a gap if it cannot be downloaded and others could."""
        is_initialized = segment.init_url in (self._init_url, "") or self._write(file, segment.init_url)
        if not (is_initialized and self._write(file, segment.url)):
            self._gap_seconds += segment.seconds
            return
        self._init_url = segment.init_url
        self.seconds += self._gap_seconds + segment.seconds
        self._gap_seconds, self._last_segment_at = 0.0, time.monotonic()

    def _write(self, file: BinaryIO, url: str) -> bool:
        """Download *url* into *file*; False if that fails. The first download raises instead."""
        request = Request(url, headers=self._stream.get("http_headers") or {})
        try:
            content = self._retry(lambda: read_body(self._downloader, request, _MAX_SEGMENT_BYTES))
        except RequestError:
            if not self.seconds:
                raise
            return False
        file.write(content)
        self._received += len(content)
        self._tracker.update_part(self._format_id, self._received)
        if self._request.size_limit and self._tracker.received > self._request.size_limit:
            raise media_too_large(self._tracker.received, self._request.size_limit)
        return True

    def _retry(self, step: Callable[[], _T]) -> _T:
        """Return what *step* returns; repeat it with delays after failures of the network."""
        for attempt in range(_MAX_TRIES - 1):
            try:
                return step()
            except RequestError as error:
                delay = exponential_delay(attempt, _FIRST_DELAY, LONGEST_SECONDS)
                if self.seconds and (_is_gone(error) or self._wait(delay)):
                    raise
                if not self.seconds:
                    time.sleep(delay)
        return step()


def recording_time_limit(request: FetchRequest) -> float:
    """Return the most seconds that the recording of *request* may take, whatever its playlist says."""
    play_seconds, timeout = request.record_seconds, request.record_timeout_seconds
    limit = _MAX_SLOWNESS * play_seconds + _SPARE_SECONDS if play_seconds else _LONGEST_SECONDS
    return min(limit, timeout or limit)


def fetch_playlist(downloader: Downloader, stream: Info) -> Playlist:
    """Return the playlist of *stream* as it is now. Raises RequestError, ValueError."""
    request = Request(stream["url"], headers=stream.get("http_headers") or {})
    text = read_body(downloader, request, _MAX_PLAYLIST_BYTES).decode("utf-8", "replace")
    return hls_playlist.parse_live(text, stream["url"])


def _is_gone(error: RequestError) -> bool:
    return isinstance(error, HTTPError) and error.status in _GONE
