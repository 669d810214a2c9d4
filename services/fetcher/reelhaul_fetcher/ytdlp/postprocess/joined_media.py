"""The media as received: each stream joined into one file, inspected, and placed on one timeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media import inspector_client, joiner
from reelhaul_fetcher.media.ffmpeg import Input
from reelhaul_fetcher.media.inspection import Inspection, NotMedia
from reelhaul_fetcher.model.timing.clocks import Clock, Timeline, plan_recorded_timeline, plan_timeline
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_fetcher.ytdlp.live.recorder import Recording
from reelhaul_fetcher.ytdlp.postprocess.plan import OutputPlan
from reelhaul_runtime.errors import ReelhaulError


@dataclass(frozen=True, slots=True)
class JoinedMedia:
    """The streams of the media, in one file each or in one file, and their timeline."""

    streams: list[ReceivedStream]
    #: Video first, audio last.
    files: list[Path]
    #: One for each file.
    inspections: list[Inspection]
    timeline: Timeline
    #: The first timestamp of the streams as received, in seconds.
    start: float
    #: Whether parts were transcoded to fit together.
    transcoded: bool = False

    @property
    def video(self) -> Inspection:
        """The file with the video, if there is any."""
        return self.inspections[0]

    @property
    def audio(self) -> Inspection:
        """The file with the audio, if there is any; it may be that with the video."""
        return self.inspections[-1]

    @property
    def duration(self) -> float:
        """The play time, in seconds."""
        return self.timeline.length

    @property
    def inputs(self) -> list[Input]:
        """The files as ffmpeg reads them."""
        return [Input(path, read.demuxer) for path, read in zip(self.files, self.inspections, strict=True)]


def join_streams(
    streams: list[ReceivedStream], plan: OutputPlan, on_progress: Callable[[float], None]
) -> JoinedMedia:
    """Join the parts of each of *streams*, video first, and place the streams on one timeline.

    *on_progress* receives the done share. Raises VERIFICATION_FAILED, FORMAT_UNAVAILABLE, FfmpegFailed.
    """
    reader = _Reader(streams, plan.inspections)
    stated = plan.recorded_seconds or plan.stated_seconds
    joined = joiner.join(
        [stream.files for stream in streams],
        plan.request.folder,
        reader.inspect,
        reader.read_clock,
        on_progress,
        expected=[stream.declared_seconds or stated for stream in streams],
    )
    return JoinedMedia(
        streams,
        joined.files,
        [reader.inspect(path) for path in joined.files],
        _plan_timeline([reader.read_clock(path) for path in joined.files], plan.recording),
        min(reader.inspect(stream.files[0]).start for stream in streams),
        joined.transcoded,
    )


def inspect_received(path: Path) -> Inspection:
    """Inspect *path*, a file that a site sent. Raises VERIFICATION_FAILED."""
    try:
        return inspector_client.inspect(path)
    except NotMedia as error:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"the file received is not media: {error}",
            metadata={"check": "container"},
        ) from error


class _Reader:
    """Inspects files, each once, and reads their clocks; the clocks of joined files have no start."""

    def __init__(self, streams: Sequence[ReceivedStream], inspections: Mapping[Path, Inspection]) -> None:
        self._inspections = dict(inspections)
        self._starts = {
            path: start
            for stream in streams
            for path, start in zip_longest(stream.files, stream.presentation_starts, fillvalue=0.0)
        }

    def inspect(self, path: Path) -> Inspection:
        """Inspect *path*. Raises VERIFICATION_FAILED."""
        if path not in self._inspections:
            self._inspections[path] = inspect_received(path)
        return self._inspections[path]

    def read_clock(self, path: Path) -> Clock:
        """Return the clock of *path*, from the start of its presentation."""
        clock = self.inspect(path).clock
        if path not in self._starts:
            return replace(clock, start=None)
        return clock.shifted(self._starts[path])


def _plan_timeline(clocks: list[Clock], recording: Recording | None) -> Timeline:
    """Return the timeline of the streams by their common clock."""
    if recording and len(recording.files) == len(clocks):
        timeline = plan_recorded_timeline(clocks, recording.starts, recording.end)
        return replace(timeline, longest_gap=recording.longest_gap)
    return plan_timeline(clocks)
