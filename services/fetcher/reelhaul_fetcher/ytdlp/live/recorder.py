"""Recording of a live stream: all its formats in parallel, until the end, a limit, or a stop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from yt_dlp.networking.exceptions import RequestError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.extraction import Source
from reelhaul_fetcher.ytdlp.live.stream import LiveStreamRecorder, StopReason, fetch_playlist
from reelhaul_runtime.errors import ReelhaulError


@dataclass(frozen=True, slots=True)
class Recording:
    """A file for each format, their play time, and what ended the recording before the live stream ended."""

    files: list[Path]
    seconds: float
    stop_reason: StopReason.ValueType

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
        return not fetch_playlist(source.downloader, stream).ended
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
    recorders = [
        LiveStreamRecorder(
            source.downloader,
            {**source.info, **source.streams[format_id]},
            format_id,
            path,
            request,
            tracker,
            stop_reason,
        )
        for format_id, path in zip(format_ids, files, strict=True)
    ]
    for recorder in recorders:
        recorder.parallel = recorders
    with ThreadPoolExecutor(len(recorders)) as pool:
        reasons = list(pool.map(LiveStreamRecorder.run, recorders))
    return Recording(files, min(recorder.seconds for recorder in recorders), max(reasons))


def recording_lost() -> ReelhaulError:
    """Return RECORDING_LOST: the recording was lost, and the live stream is over."""
    text = "the recording was lost with its worker, and the live stream is over"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)
