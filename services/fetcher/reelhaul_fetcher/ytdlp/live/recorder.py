"""Recording of a live stream: all its formats in parallel, until the end, a limit, or a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from yt_dlp.networking.exceptions import RequestError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.hls_playlist import Playlist
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.timing.live_alignment import align
from reelhaul_fetcher.ytdlp.extract.extraction import Source
from reelhaul_fetcher.ytdlp.live.stream import CommonEnd, LiveStreamRecorder, StopReason, fetch_playlist
from reelhaul_runtime.errors import ReelhaulError

# A playlist without segments delays the recording of the others by this at most.
_MAX_START_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Recording:
    """A file for each format, their starts and ends, and the reason why the recording ended early.

    Times are in seconds after the recording began. A format without received segments has an empty file.
    """

    files: list[Path]
    starts: list[float]
    ends: list[float]
    #: The common end of all formats.
    end: float
    #: The longest gap in a format, in seconds.
    longest_gap: float
    stop_reason: StopReason.ValueType

    @property
    def is_without_audio(self) -> bool:
        """Whether video was received, but no separate audio."""
        sizes = [file.stat().st_size for file in self.files]
        return len(sizes) > 1 and sizes[0] > 0 and not any(sizes[1:])

    def without_audio(self) -> Recording:
        """Return the recording of the video alone."""
        return replace(self, files=self.files[:1], starts=self.starts[:1], ends=self.ends[:1])

    @property
    def seconds(self) -> float:
        """The play time in seconds, up to the end of the longer format."""
        return min(max(self.ends), max(self.end, min(self.ends)))

    @property
    def warnings(self) -> list[MediaWarning]:
        """That a limit or the user ended the recording, if one did."""
        by_request = " by request" if self.stop_reason == MediaWarning.RECORDING_STOPPED else ""
        text = f"the recording was stopped{by_request} after {self.seconds:.0f} s"
        return [MediaWarning(reason=self.stop_reason, message=text)] if self.stop_reason else []


def is_requested(spec: FormatSpec) -> bool:
    """Return whether *spec* asks for live media to be recorded."""
    return spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD)


def is_live_playlist(source: Source, format_id: str) -> bool:
    """Return whether a format is a playlist that continues: some sites do not tell that they are live."""
    stream = source.streams[format_id]
    if not str(stream.get("protocol") or "").startswith("m3u8"):
        return False
    try:
        # Whether the stream can be recorded is checked later, with its own reason.
        return not fetch_playlist(source.downloader, stream, hls_playlist.parse).is_complete
    except (RequestError, OSError, ValueError):
        return False


def record(
    source: Source,
    format_ids: list[str],
    request: FetchRequest,
    tracker: ProgressTracker,
    stop_reason: Callable[[], StopReason.ValueType],
) -> Recording:
    """Record the formats *format_ids* within the limits of *request*, until *stop_reason* returns a reason.

    Raises FORMAT_UNAVAILABLE for a playlist that cannot be recorded, MEDIA_TOO_LARGE.
    """
    tracker.set_plan(dict.fromkeys(format_ids), None)
    files = [request.folder / f"stream{number}.ts" for number in range(len(format_ids))]
    end = CommonEnd(request.record_seconds)
    recorders = [
        LiveStreamRecorder(
            source.downloader,
            {**source.info, **source.streams[format_id]},
            format_id,
            path,
            request,
            tracker,
            stop_reason,
            end,
        )
        for format_id, path in zip(format_ids, files, strict=True)
    ]
    for recorder in recorders:
        recorder.parallel = recorders
    playlists = _fetch_first_playlists(recorders)
    from_start = request.format.live.from_start
    anchors = align(
        playlists, lambda index, segment: recorders[index].measure(segment), from_start=from_start
    )
    for recorder, anchor in zip(recorders, anchors, strict=True):
        recorder.begin_at(anchor)
    with ThreadPoolExecutor(len(recorders)) as pool:
        reasons = list(pool.map(LiveStreamRecorder.run, recorders))
    starts, ends = [recorder.start for recorder in recorders], [recorder.position for recorder in recorders]
    longest_gap = max(recorder.longest_gap for recorder in recorders)
    return Recording(files, starts, ends, end.position, longest_gap, max(reasons))


def _fetch_first_playlists(recorders: list[LiveStreamRecorder]) -> list[Playlist]:
    """Return the playlists once all have segments, or as they are after some seconds."""
    end = time.monotonic() + _MAX_START_WAIT_SECONDS
    while True:
        playlists = [recorder.fetch_first_playlist() for recorder in recorders]
        if time.monotonic() > end or all(playlist.segments or playlist.ended for playlist in playlists):
            return playlists
        time.sleep(_POLL_SECONDS)


def recording_lost() -> ReelhaulError:
    """Return RECORDING_LOST: the recording was lost, and the live stream is over."""
    text = "the recording was lost with its worker, and the live stream is over"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)
