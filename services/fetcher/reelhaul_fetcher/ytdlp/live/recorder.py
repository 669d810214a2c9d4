"""Recording what is on air: all streams side by side, as long as they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from yt_dlp.networking.exceptions import RequestError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.extraction import Source
from reelhaul_fetcher.ytdlp.live import stream as takes
from reelhaul_fetcher.ytdlp.live.stream import LiveStreamRecorder, Reason
from reelhaul_runtime.errors import ReelhaulError


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
        return not takes.read(source.downloader, stream).ended
    except (RequestError, OSError, ValueError):
        return False


def record(
    source: Source,
    parts: list[str],
    order: FetchRequest,
    gauge: ProgressTracker,
    enough: Callable[[], Reason.ValueType],
) -> Recording:
    """Record the streams whose ids are *parts*, side by side, as long as *order* allows, or until *enough*.

    Raises FORMAT_UNAVAILABLE for what cannot be recorded, MEDIA_TOO_LARGE.
    """
    gauge.set_plan(dict.fromkeys(parts), None)
    files = [order.folder / f"stream{number}.ts" for number in range(len(parts))]
    running = [
        LiveStreamRecorder(
            source.downloader, {**source.info, **source.streams[part]}, part, path, order, gauge, enough
        )
        for part, path in zip(parts, files, strict=True)
    ]
    for take in running:
        take.all = running
    with ThreadPoolExecutor(len(running)) as pool:
        ends = list(pool.map(LiveStreamRecorder.run, running))
    return Recording(files, min(take.seconds for take in running), max(ends))


def lost() -> ReelhaulError:
    """RECORDING_LOST: nothing is on air of which a moment could be kept."""
    text = "its recording was lost with the worker that had it, and what was on air is over"
    return ReelhaulError(ErrorReason.RECORDING_LOST, text)


def wanted(spec: FormatSpec) -> bool:
    """Whether *spec* asks for what is live to be recorded."""
    return spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD)
