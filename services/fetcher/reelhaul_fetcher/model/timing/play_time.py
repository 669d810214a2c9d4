"""Play time of the media received, compared with the duration that the site and its manifest declare.

If everything that the server has was received and plays to its end, a different duration on a page is a
mistake of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_runtime.errors import ReelhaulError

# Sites round to whole seconds, and a container's duration includes its last frame.
_MIN_TOLERANCE, _RELATIVE_TOLERANCE = 1.5, 0.02


@dataclass(frozen=True, slots=True)
class ReceivedStream:
    """A stream of the media as it was received: files in the order of play, each with a clock of its own."""

    files: tuple[Path, ...]
    #: Play time in seconds that the segments declare; 0: unknown.
    declared_seconds: float = 0.0
    #: Seconds by which they may play shorter.
    tolerance: float = 0.0
    #: Whether everything that the server has was received: its length is known, or its segments are.
    is_complete: bool = True
    #: The timestamp, in seconds, at which the presentation begins in each file; 0 if unknown.
    presentation_starts: tuple[float, ...] = ()


def usual_tolerance(seconds: float) -> float:
    """Return the usual error of a stated duration of *seconds*, in seconds."""
    return max(_MIN_TOLERANCE, _RELATIVE_TOLERANCE * seconds)


def check_declared_duration(
    stream: ReceivedStream, seconds: float, measure_packets: Callable[[], float]
) -> list[MediaWarning]:
    """Return a warning if *stream* plays *seconds*, less than its segments declare. It may play longer.

    Raises FORMAT_UNAVAILABLE if its clock restarts, so that packets overlap: *measure_packets* returns the
    play time of all packets in sequence, in seconds.
    """
    declared = stream.declared_seconds
    if not declared or seconds >= declared - max(stream.tolerance, usual_tolerance(declared)):
        return []
    text = f"the stream plays {seconds:.1f} s; its segments declare {declared:.1f} s"
    if measure_packets() > seconds + usual_tolerance(seconds):
        # A retry would receive the same media.
        raise ReelhaulError(
            ErrorReason.FORMAT_UNAVAILABLE, f"{text}: its clock restarts without a discontinuity"
        )
    return [MediaWarning(reason=MediaWarning.DURATION_DIFFERS, message=text)]


def compare(received: float, stated: float, *, is_whole: bool) -> list[MediaWarning]:
    """Return a warning if the site stated another duration than was received, in seconds (0: unknown).

    *is_whole*: whether it is known that nothing is missing. If not, a file that is too short raises
    VERIFICATION_FAILED.
    """
    if not stated or abs(received - stated) <= usual_tolerance(stated):
        return []
    if received < stated and not is_whole:
        raise ReelhaulError(
            ErrorReason.VERIFICATION_FAILED,
            f"the file lasts {received:.1f} s; {stated:.1f} s were expected",
            metadata={"check": "duration"},
        )
    text = f"the media lasts {received:.1f} s; the site says {stated:.1f} s"
    return [MediaWarning(reason=MediaWarning.DURATION_DIFFERS, message=text)]
