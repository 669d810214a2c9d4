"""Verifies that a finished file has the expected streams and duration, and that it plays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import duration_pb2

from reelhaul import qualities
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import DeliveredMedia
from reelhaul_fetcher.media import inspector_client, muxer
from reelhaul_fetcher.media.inspection import Inspection, NotMedia, Unplayable
from reelhaul_runtime.errors import ReelhaulError

# Seconds by which the start of the audio may differ, because of packet boundaries and encoder priming.
_CLOCK_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must have: *duration* in seconds (0: unknown), video, audio, a minimum height.

    *tolerance* of the duration is in seconds; 0 means the usual inaccuracy of sites. *audio_delay* is the
    start of the audio in seconds after that of the video; None: unknown.
    """

    duration: float
    video: bool
    audio: bool
    min_height: int = 0
    tolerance: float = 0.0
    audio_delay: float | None = None


def verify(path: Path, expected: Expected, inspection: Inspection | None = None) -> DeliveredMedia:
    """Check *path* and return what it delivers; *inspection* is given if the file was inspected already.

    Raises VERIFICATION_FAILED, or FORMAT_UNAVAILABLE below *min_height*.
    """
    inspection = inspection or inspect_written(path)
    _check_streams(inspection, expected)
    _check_duration(inspection.duration, expected)
    _check_clock(inspection, expected)
    try:
        is_rotated = inspector_client.decode_check(path, inspection.demuxer)
    except (NotMedia, Unplayable) as error:
        raise _failed("playable", f"the file does not play through: {error}") from error
    if is_rotated:
        inspection = replace(inspection, width=inspection.height, height=inspection.width)
    _check_size(inspection, expected.min_height)
    return to_delivered_media(inspection, path.suffix.lstrip("."))


def inspect_written(path: Path) -> Inspection:
    """Inspect *path*, which the muxer has written, with the demuxer of its extension.

    Raises VERIFICATION_FAILED.
    """
    if path.stat().st_size == 0:
        raise _failed("size", "the file is empty")
    try:
        return inspector_client.inspect(path, muxer.demuxer_of(path))
    except NotMedia as error:
        raise _failed("container", f"the file cannot be read: {error}") from error


def to_delivered_media(inspection: Inspection, container: str) -> DeliveredMedia:
    """Convert *inspection* to the API's message."""
    return DeliveredMedia(
        width=inspection.width,
        height=inspection.height,
        frame_rate=inspection.frame_rate,
        container=container,
        video_codec=inspection.video_codec,
        audio_codec=inspection.audio_codec,
        audio_bitrate_bps=inspection.audio_bitrate,
        dynamic_range={"smpte2084": "HDR10", "arib-std-b67": "HLG"}.get(inspection.transfer, ""),
        duration=to_duration(inspection.duration),
    )


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Convert *seconds* to a Duration."""
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1000) * 1_000_000 % 10**9)


def _check_streams(inspection: Inspection, expected: Expected) -> None:
    if expected.video and not inspection.video_codec:
        raise _failed("video", "the file has no video")
    if expected.audio and not inspection.audio_codec:
        raise _failed("audio", "the file has no audio")


def _check_size(inspection: Inspection, minimum: int) -> None:
    if minimum and not qualities.reaches(inspection.width, inspection.height, minimum):
        size = qualities.describe(inspection.width, inspection.height)
        text = f"the picture has {size}; at least {qualities.describe_limit(minimum)} is required"
        raise ReelhaulError(ErrorReason.FORMAT_UNAVAILABLE, text)


def _check_duration(duration: float, expected: Expected) -> None:
    # Sites round to whole seconds, and a container's duration includes its last frame.
    tolerance = expected.tolerance or max(1.5, 0.02 * expected.duration)
    # Without a cut, only a shorter file is an error: headers and pages may state too little.
    excess = duration - expected.duration if expected.tolerance else 0.0
    if expected.duration and max(expected.duration - duration, excess) > tolerance:
        raise _failed("duration", f"the file lasts {duration:.1f} s; {expected.duration:.1f} s were expected")
    if not duration:
        raise _failed("duration", "the file has no duration")


def _check_clock(inspection: Inspection, expected: Expected) -> None:
    if expected.audio_delay is None:
        return
    delay = inspection.audio_start - inspection.video_start
    if abs(delay - expected.audio_delay) > _CLOCK_TOLERANCE:
        text = f"the audio begins {delay:.1f} s after the video; {expected.audio_delay:.1f} s were expected"
        raise _failed("clock", text)


def _failed(check: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": check})
