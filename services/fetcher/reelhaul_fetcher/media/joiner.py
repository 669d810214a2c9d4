"""Joins the parts of streams, each with a clock of its own, into files with one clock.

The streams of a part are muxed together first, so that they stay in sync; then the parts are concatenated.
Parts are copied; a part whose picture size or sample rate differs from the longest part is transcoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media import ffmpeg, inspector_client, muxer
from reelhaul_fetcher.media.ffmpeg import Input
from reelhaul_fetcher.media.inspection import Inspection, NotMedia
from reelhaul_fetcher.model.packaging import Package
from reelhaul_fetcher.model.timing import play_time
from reelhaul_fetcher.model.timing.clocks import Clock, Timeline, plan_timeline
from reelhaul_runtime.errors import ReelhaulError

# Longest gap in seconds between the end of a part and the start of the next one on the same clock.
_MAX_CLOCK_STEP = 0.5
# Demuxers of containers that can be concatenated as bytes, so that the clock may restart within a file.
_CONCATENATING_DEMUXERS = frozenset({"mpegts", "mpeg", "ogg"})
# Parts that one ffmpeg process reads: each is an open file.
_MAX_INPUTS = 100
_VIDEO_ENCODERS = {
    "h264": ("libx264", "-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p"),
    "vp9": ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "6", "-crf", "32", "-b:v", "0"),
    "hevc": ("libx265", "-preset", "veryfast", "-crf", "23", "-x265-params", "log-level=error"),
}
_AUDIO_ENCODERS = {
    "aac": ("aac", "-b:a", "192k"),
    "opus": ("libopus", "-b:a", "160k"),
    "mp3": ("libmp3lame",),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """The files of one part, video first, with their inspections and timeline."""

    files: tuple[Path, ...]
    inspections: tuple[Inspection, ...]
    timeline: Timeline

    @property
    def duration(self) -> float:
        return self.timeline.length

    @property
    def codecs(self) -> tuple[str, str]:
        return self.inspections[0].video_codec, self.inspections[-1].audio_codec

    @property
    def picture(self) -> tuple[int, int]:
        return self.inspections[0].width, self.inspections[0].height

    @property
    def sound(self) -> tuple[int, int]:
        return self.inspections[-1].audio_rate, self.inspections[-1].audio_channels

    @property
    def start(self) -> float:
        return min(inspection.start for inspection in self.inspections)

    def length_before(self, following: _Part) -> float:
        """Return the seconds until *following* begins, by the clock if both parts share it."""
        step = following.start - self.start
        return step if abs(step - self.duration) <= _MAX_CLOCK_STEP else self.duration


@dataclass(frozen=True, slots=True)
class JoinResult:
    """One file per stream, or one for all, and whether parts were transcoded."""

    files: list[Path]
    transcoded: bool = False


def join(
    streams: Sequence[Sequence[Path]],
    folder: Path,
    inspect: Callable[[Path], Inspection],
    read_clock: Callable[[Path], Clock],
    on_progress: Callable[[float], None],
    *,
    expected: Sequence[float],
) -> JoinResult:
    """Join the parts of each of *streams*, video first, in *folder*. The parts are deleted.

    *expected* is how long each stream should play, in seconds (0: unknown): one that seems to play longer or
    shorter is searched for a clock that starts again unannounced. The streams of a part keep the differences
    of their clocks, which *read_clock* returns. *on_progress* receives the done share.

    Raises FORMAT_UNAVAILABLE for parts that do not fit together, FfmpegFailed, and what *inspect* raises.
    """
    if all(len(parts) == 1 for parts in streams):
        files = [parts[0] for parts in streams]
        if not any(_restarts(file, inspect, s) for file, s in zip(files, expected, strict=True)):
            return JoinResult(files)
    if len({len(parts) for parts in streams}) > 1:
        # The streams do not restart together: each is joined results.
        results = [
            join([parts], folder, inspect, read_clock, on_progress, expected=[seconds])
            for parts, seconds in zip(streams, expected, strict=True)
        ]
        return JoinResult(
            [joined.files[0] for joined in results], any(joined.transcoded for joined in results)
        )
    parts = [
        _Part(files, tuple(map(inspect, files)), plan_timeline([read_clock(file) for file in files]))
        for files in zip(*streams, strict=True)
    ]
    _check_codecs(parts)
    longest = max(parts, key=lambda part: part.duration)
    muxed: list[_MuxedPart] = []
    transcoded = False
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        package = _plan_package(part, longest)
        transcoded = transcoded or package.transcodes
        output = folder / f"{streams[0][0].stem}.part{len(muxed)}.mkv"
        inputs = [Input(file, read.demuxer) for file, read in zip(part.files, part.inspections, strict=True)]
        muxer.mux(inputs, package, output, part.duration, lambda _: None, timeline=part.timeline)
        for file in part.files:
            file.unlink()
        muxed.append(_MuxedPart(output, part.length_before(following) if following else part.duration))
        on_progress(len(muxed) / len(parts))
    if len(muxed) > 1:
        muxed = [_concatenate(muxed, folder / f"{streams[0][0].stem}.joined.mkv")]
        _check_length(inspect(muxed[0].path), muxed[0])
    return JoinResult([muxed[0].path], transcoded)


@dataclass(frozen=True, slots=True)
class _MuxedPart:
    """A part in Matroska, and the seconds until the next one begins."""

    path: Path
    seconds: float


def _check_length(inspection: Inspection, joined: _MuxedPart) -> None:
    """Raise VERIFICATION_FAILED if *joined* does not play as long as its parts."""
    if abs(inspection.duration - joined.seconds) > play_time.usual_tolerance(joined.seconds):
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"the parts play {joined.seconds:.1f} s, and {inspection.duration:.1f} s when they are joined",
            metadata={"check": "duration"},
        )


def _restarts(file: Path, inspect: Callable[[Path], Inspection], expected: float) -> bool:
    """Return whether the clock of *file* restarts within it, so that timestamps do not show the play time."""
    inspection = inspect(file)
    if inspection.demuxer not in _CONCATENATING_DEMUXERS:
        return False
    if expected and abs(inspection.duration - expected) <= play_time.usual_tolerance(expected):
        return False
    try:
        played = inspector_client.measure_play_time(file, inspection.demuxer)
    except NotMedia:
        return False
    return abs(played - inspection.duration) > _MAX_CLOCK_STEP


def _check_codecs(parts: list[_Part]) -> None:
    """Raise FORMAT_UNAVAILABLE if the codecs change: no container has two codecs in one track."""
    for part in parts:
        if part.codecs != parts[0].codecs:
            before, after = ("/".join(codec or "none" for codec in p.codecs) for p in (parts[0], part))
            raise ReelhaulError(
                ErrorReason.FORMAT_UNAVAILABLE,
                f"the codecs of the media change in its middle, from {before} to {after}",
            )


def _plan_package(part: _Part, longest: _Part) -> Package:
    """Return how to convert *part* to the size and sample rate of *longest*: a copy if they are equal."""
    video_codec, audio_codec = part.codecs
    video: tuple[str, ...] = ("copy",) if video_codec else ()
    audio: tuple[str, ...] = ("copy",) if audio_codec else ()
    if video and part.picture != longest.picture and video_codec in _VIDEO_ENCODERS:
        width, height = longest.picture
        fit = f"scale={width}:{height}:force_original_aspect_ratio=decrease"
        fit = f"{fit},pad={width}:{height}:(ow-iw)/2:(oh-ih)/2,setsar=1"
        video = (*_VIDEO_ENCODERS[video_codec], "-vf", fit)
    if audio and part.sound != longest.sound and audio_codec in _AUDIO_ENCODERS:
        rate, channels = longest.sound
        audio = (*_AUDIO_ENCODERS[audio_codec], "-ar", str(rate), "-ac", str(channels))
    return Package("mkv", video, audio)


def _concatenate(parts: list[_MuxedPart], output: Path) -> _MuxedPart:
    """Write *parts* one after another into *output*, and delete them."""
    if len(parts) > _MAX_INPUTS:
        groups = [parts[n : n + _MAX_INPUTS] for n in range(0, len(parts), _MAX_INPUTS)]
        parts = [
            _concatenate(group, output.with_name(f"group{len(parts)}-{number}.mkv"))
            for number, group in enumerate(groups)
        ]
    with ExitStack() as stack:
        files = [stack.enter_context(part.path.open("rb")) for part in parts]
        script = output.with_suffix(".ffconcat")
        lines = ["ffconcat version 1.0"]
        for file, part in zip(files, parts, strict=True):
            lines += ["file fd:", f"option fd {file.fileno()}", f"duration {part.seconds:.6f}"]
        script.write_text("\n".join([*lines, ""]))
        # Our own script names descriptors only; "unsafe" is the option that sets which.
        source = Input(script, "concat", ("-safe", "0"), nested="matroska")
        arguments = ["-map", "0", "-c", "copy", "-map_metadata", "-1"]
        ffmpeg.run([source], arguments, output, inherited=[file.fileno() for file in files])
    for path in (script, *(part.path for part in parts)):
        path.unlink()
    return _MuxedPart(output, sum(part.seconds for part in parts))
