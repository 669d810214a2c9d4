"""Recording of one format of a live stream: appends segments until the end, a limit, or silence."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError

from reelhaul.backoff import LONGEST_SECONDS, exponential_delay
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import inspector_client
from reelhaul_fetcher.media.inspection import NotMedia
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.hls_playlist import Playlist, Segment
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing.live_alignment import EDGE_SEGMENTS, Anchor, is_over
from reelhaul_fetcher.ytdlp.download.streams import media_too_large
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, read_body
from reelhaul_runtime.errors import ReelhaulError

_T = TypeVar("_T")
#: Why a recording ended before the live stream did; REASON_UNSPECIFIED: it did not.
StopReason = MediaWarning.Reason

_MAX_PLAYLIST_BYTES = 8 * 1024 * 1024
_MAX_SEGMENT_BYTES = 256 * 1024 * 1024
_MAX_TRIES = 4
_FIRST_DELAY = 0.3
# The live stream is over if no segment appears for this long, plus three target durations.
_SILENCE_SECONDS = 20.0
# The same for audio whose video has ended, in seconds.
_LAST_SILENCE_SECONDS = 4.0
_POLL_SECONDS = 0.2
# A stop ends all streams together: a stream that is behind continues for at most this play time, in seconds.
_MAX_CATCH_UP_SECONDS = 10.0
# Rounding error of sums of play times, in seconds.
_ROUNDING = 0.01
_MIN_REFRESH_SECONDS, _MAX_REFRESH_SECONDS = 0.3, 5.0
# A recording takes about as long as it plays, and longer behind a slow site; whatever the playlist says,
# it ends after this many times its play time and these seconds, or after a day if that is unlimited.
_MAX_SLOWNESS, _SPARE_SECONDS, _LONGEST_SECONDS = 2.0, 60.0, 24 * 3600.0
# Statuses of what is gone for good.
_GONE = (404, 410)


class CommonEnd:
    """The moment at which all streams of a recording end, in seconds after it began."""

    def __init__(self, limit: float) -> None:
        self.position = limit or math.inf
        #: When the recording must end, on the monotonic clock.
        self.deadline = math.inf
        self.is_video_over = False
        self._lock, self._is_agreed = threading.Lock(), False

    def end_video(self, position: float) -> None:
        """Set the end to *position*, the end of the video, at the latest."""
        with self._lock:
            self.position, self.is_video_over = min(self.position, position), True

    def agree(self, recorders: Sequence[LiveStreamRecorder]) -> None:
        """Set the end to the current position of the streams; a stream slightly behind catches up first."""
        with self._lock:
            if self._is_agreed:
                return
            self._is_agreed = True
            started = [recorder for recorder in recorders if recorder.has_started]
            furthest = max(recorder.position + recorder.available_seconds for recorder in started)
            earliest = min(recorder.position for recorder in started)
            self.position = min(self.position, max(earliest, min(furthest, earliest + _MAX_CATCH_UP_SECONDS)))
            if len(recorders) > 1:
                self.deadline = time.monotonic() + 2 * _MAX_CATCH_UP_SECONDS

    def abort(self) -> None:
        """End the recording now, because one of the streams cannot be recorded."""
        self.deadline = 0.0


class LiveStreamRecorder:
    """Records one format, from its anchor to the common end."""

    def __init__(
        self,
        downloader: Downloader,
        stream: Info,
        format_id: str,
        path: Path,
        request: FetchRequest,
        tracker: ProgressTracker,
        stop_reason: Callable[[], StopReason.ValueType],
        end: CommonEnd | None = None,
    ) -> None:
        #: All recorders of this live stream, this one included; the first is the video's.
        self.parallel = [self]
        #: Start and current position of this stream, in seconds after the start of the recording.
        self.start = self.position = 0.0
        self.has_started = False
        #: The longest gap within the recording, in seconds.
        self.longest_gap = 0.0
        #: Seconds between the position and the live edge, if that is near; else 0.
        self.available_seconds = 0.0
        self._downloader, self._stream, self._format_id, self._path = downloader, stream, format_id, path
        self._request, self._tracker, self._stop_reason = request, tracker, stop_reason
        self._end = end or CommonEnd(request.record_seconds)
        self._received, self._init_url = 0, ""
        self._target_seconds, self._next_number = 6.0, 0
        #: Play time of the segments that are missing since the last one recorded.
        self._gap_seconds = 0.0
        self._last_segment_at = time.monotonic()
        self._deadline = time.monotonic() + recording_time_limit(request)
        self._is_site_down = False
        #: The playlist and contents that were downloaded before the recording began, by URL.
        self._first_playlist: Playlist | None = None
        self._contents: dict[str, bytes] = {}

    @property
    def seconds(self) -> float:
        """Play time recorded, gaps included."""
        return self.position - self.start if self.has_started else 0.0

    def fetch_first_playlist(self) -> Playlist:
        """Return the first playlist; an empty one if that of audio does not exist yet."""
        playlist = self._refresh_playlist() or Playlist((), self._target_seconds, ended=False)
        self._first_playlist = playlist
        return playlist

    def measure(self, segment: Segment) -> float | None:
        """Return the first timestamp of *segment*, in seconds; None if it has none."""
        following = self._first_playlist.segments if self._first_playlist else ()
        parts = [part for part in following if part.number >= segment.number][:EDGE_SEGMENTS]
        with suppress(RequestError):
            content = self._prefetch(segment.init_url) if segment.init_url else b""
            # A segment of a few packets is detected only together with the next ones.
            for part in parts:
                content += self._prefetch(part.url)
                self._path.write_bytes(content)
                with suppress(NotMedia):
                    return inspector_client.inspect(self._path).clock.start
        return None

    def _prefetch(self, url: str) -> bytes:
        self._contents[url] = content = self._retry(partial(self._download, url))
        return content

    def begin_at(self, anchor: Anchor) -> None:
        """Set the first segment to *anchor*; segments that are over at the start are skipped."""
        self._next_number, self.start = anchor.number, anchor.position
        self.position = anchor.position

    def run(self) -> StopReason.ValueType:
        """Record; return what ended the recording before the live stream ended."""
        try:
            with self._path.open("wb") as file:
                for segment in self._segments():
                    self._append(file, segment)
        except BaseException:
            self._end.abort()
            raise
        if self is self.parallel[0]:
            self._end.end_video(self.position)
        if self._request.record_seconds and self.position >= self._request.record_seconds - _ROUNDING:
            return MediaWarning.RECORDING_CUT
        is_cut = self._is_site_down or self._is_overdue()
        default = MediaWarning.RECORDING_CUT if is_cut else MediaWarning.REASON_UNSPECIFIED
        return self._stop_reason() or default

    def _segments(self) -> Iterator[Segment]:
        """Yield segments as they appear, until the live stream ends or falls silent, or a stop."""
        while (playlist := self._first_playlist or self._refresh_playlist()) is not None:
            self._first_playlist = None
            self._target_seconds = playlist.target_seconds
            new = [segment for segment in playlist.segments if segment.number >= self._next_number]
            for index, segment in enumerate(new, 1):
                self._note_missing(segment)
                self._next_number = segment.number + 1
                if not self.has_started and self._is_over_at_start(segment):
                    self._gap_seconds += segment.seconds
                    continue
                available = new[index:]
                is_near = len(available) < EDGE_SEGMENTS
                self.available_seconds = sum(s.seconds for s in available) if is_near else 0.0
                yield segment
                if self._is_finished():
                    return
            refresh = min(max(self._target_seconds / 2, _MIN_REFRESH_SECONDS), _MAX_REFRESH_SECONDS)
            if playlist.ended or self._is_silent() or self._wait(refresh, self._is_finished):
                return

    def _note_missing(self, segment: Segment) -> None:
        """Count the play time of the segments between the last one and *segment* that were never listed."""
        missing = segment.number - self._next_number
        if missing > 0 and self._next_number:
            # Limited by the time passed, because numbering may also restart.
            passed = time.monotonic() - self._last_segment_at + self._target_seconds
            self._gap_seconds += min(missing * segment.seconds, passed)

    def _is_over_at_start(self, segment: Segment) -> bool:
        """Return whether *segment*, the next one, is over when the recording begins."""
        return is_over(segment, self.position + self._gap_seconds + segment.seconds)

    def _is_silent(self) -> bool:
        spare = _LAST_SILENCE_SECONDS if self._end.is_video_over else _SILENCE_SECONDS
        return time.monotonic() - self._last_segment_at > 3 * self._target_seconds + spare

    def _is_overdue(self) -> bool:
        return time.monotonic() >= min(self._deadline, self._end.deadline)

    def _is_stop_requested(self) -> bool:
        """Return whether a stop is requested and there is something to keep."""
        return bool(self.seconds and self._stop_reason())

    def _is_finished(self) -> bool:
        """Return whether this stream has reached the common end, or cannot reach it after a stop."""
        if self._is_overdue():
            return True
        if not self.seconds:
            return False
        if self._stop_reason():
            self._end.agree(self.parallel)
            if self._gap_seconds or self._is_site_down:
                return True
        return self.position >= self._end.position - _ROUNDING

    def _wait(self, seconds: float, is_over: Callable[[], bool]) -> bool:
        """Wait for *seconds*; return True at once if *is_over* returns True."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if is_over():
                return True
            time.sleep(min(left, _POLL_SECONDS))
        return is_over()

    def _refresh_playlist(self) -> Playlist | None:
        """Return the playlist, an empty one while the site is down, or None once it is gone for good."""
        try:
            playlist = self._retry(lambda: fetch_playlist(self._downloader, self._stream))
        except ValueError as error:
            # An invalid playlist during a recording is a temporary failure of the site.
            if not self.has_started and not self.parallel[0].has_started:
                raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, str(error)) from error
            self._is_site_down = True
        except RequestError as error:
            if not self.has_started and self is self.parallel[0]:
                raise
            self._is_site_down = not _is_gone(error) or not self.has_started
        else:
            self._is_site_down = False
            return playlist
        return Playlist((), self._target_seconds, ended=False) if self._is_site_down else None

    def _append(self, file: BinaryIO, segment: Segment) -> None:
        """Write *segment*, or leave a gap if it cannot be downloaded and others could."""
        if segment.init_url not in (self._init_url, "") and self._write(file, segment.init_url):
            self._init_url = segment.init_url
        if segment.init_url not in (self._init_url, "") or not self._write(file, segment.url):
            self._gap_seconds += segment.seconds
            return
        self.position += self._gap_seconds
        if self.has_started:
            self.longest_gap = max(self.longest_gap, self._gap_seconds)
        else:
            self.start, self.has_started = self.position, True
            self._contents.clear()
        self.position += segment.seconds
        self._gap_seconds, self._last_segment_at = 0.0, time.monotonic()

    def _write(self, file: BinaryIO, url: str) -> bool:
        """Append *url* to *file*; False if that fails. The first segment of the video raises instead."""
        try:
            content = self._contents.get(url) or self._retry(partial(self._download, url))
        except RequestError:
            if not self.has_started and self is self.parallel[0]:
                raise
            return False
        file.write(content)
        self._received += len(content)
        self._tracker.update_part(self._format_id, self._received)
        if self._request.size_limit and self._tracker.received > self._request.size_limit:
            raise media_too_large(self._tracker.received, self._request.size_limit)
        return True

    def _download(self, url: str) -> bytes:
        request = Request(url, headers=self._stream.get("http_headers") or {})
        return read_body(self._downloader, request, _MAX_SEGMENT_BYTES)

    def _retry(self, step: Callable[[], _T]) -> _T:
        """Return what *step* returns; repeat it with delays after failures of the network."""
        for attempt in range(_MAX_TRIES - 1):
            try:
                return step()
            except RequestError as error:
                delay = exponential_delay(attempt, _FIRST_DELAY, LONGEST_SECONDS)
                if self.seconds and (_is_gone(error) or self._wait(delay, self._is_stop_requested)):
                    raise
                if not self.seconds:
                    time.sleep(delay)
        return step()


def recording_time_limit(request: FetchRequest) -> float:
    """Return the most seconds that the recording of *request* may take, whatever its playlist says."""
    play_seconds, timeout = request.record_seconds, request.record_timeout_seconds
    limit = _MAX_SLOWNESS * play_seconds + _SPARE_SECONDS if play_seconds else _LONGEST_SECONDS
    return min(limit, timeout or limit)


def fetch_playlist(
    downloader: Downloader, stream: Info, parse: Callable[[str, str], Playlist] = hls_playlist.parse_live
) -> Playlist:
    """Return the playlist of *stream* as it is now. Raises RequestError, ValueError."""
    request = Request(stream["url"], headers=stream.get("http_headers") or {})
    text = read_body(downloader, request, _MAX_PLAYLIST_BYTES).decode("utf-8", "replace")
    return parse(text, stream["url"])


def _is_gone(error: RequestError) -> bool:
    return isinstance(error, HTTPError) and error.status in _GONE
