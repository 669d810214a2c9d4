"""Whether a finished file is what was promised, before anyone hears that it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import duration_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import DeliveredMedia
from reelhaul_fetcher.media import inspector_client
from reelhaul_fetcher.media.inspect import Inspection, NotMedia, Unplayable
from reelhaul_runtime.errors import ReelhaulError


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must hold: seconds of play time (0: unknown), a picture, sound, a least height.

    *slack* is how many seconds it may be off; 0 means by as much as sites are wrong.
    """

    duration: float
    video: bool
    audio: bool
    min_height: int = 0
    slack: float = 0.0


def verify(path: Path, promise: Expected, seen: Inspection | None = None) -> DeliveredMedia:
    """What *path* delivers; *seen* saves a look where it was inspected as it is.

    Raises VERIFICATION_FAILED, or FORMAT_UNAVAILABLE for a broken min_height.
    """
    if path.stat().st_size == 0:
        raise _failed("size", "the file is empty")
    try:
        seen = seen or inspector_client.inspect(path)
    except NotMedia as error:
        raise _failed("container", f"the file cannot be read: {error}") from error
    _check_streams(seen, promise)
    _check_duration(seen.duration, promise)
    try:
        inspector_client.decode_check(path)
    except (NotMedia, Unplayable) as error:
        raise _failed("playable", f"the file does not play through: {error}") from error
    return to_delivered_media(seen, path.suffix.lstrip("."))


def to_delivered_media(seen: Inspection, container: str) -> DeliveredMedia:
    """*seen* in the words of the API."""
    return DeliveredMedia(
        width=seen.width,
        height=seen.height,
        frame_rate=seen.frame_rate,
        container=container,
        video_codec=seen.video_codec,
        audio_codec=seen.audio_codec,
        audio_bitrate_bps=seen.audio_bitrate,
        dynamic_range={"smpte2084": "HDR10", "arib-std-b67": "HLG"}.get(seen.transfer, ""),
        duration=to_duration(seen.duration),
    )


def to_duration(seconds: float) -> duration_pb2.Duration:
    """*seconds* as a Duration."""
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1000) * 1_000_000 % 10**9)


def _check_streams(seen: Inspection, promise: Expected) -> None:
    if promise.video and not seen.video_codec:
        raise _failed("video", "the file holds no picture")
    if promise.audio and not seen.audio_codec:
        raise _failed("audio", "the file holds no sound")
    shorter = min(seen.width, seen.height)
    if promise.min_height and shorter < promise.min_height:
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE,
            f"the picture is {shorter} pixels high; at least {promise.min_height} was asked",
        )


def _check_duration(real: float, promise: Expected) -> None:
    # A site's figure is whole seconds, a container's last frame lasts a while.
    slack = promise.slack or max(1.5, 0.02 * promise.duration)
    if promise.duration and abs(real - promise.duration) > slack:
        raise _failed("duration", f"the file plays {real:.1f} s; {promise.duration:.1f} s were promised")
    if not real:
        raise _failed("duration", "the file has no play time")


def _failed(check: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.VERIFICATION_FAILED, text, metadata={"check": check})
