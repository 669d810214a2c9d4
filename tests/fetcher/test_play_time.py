"""Play time: the media received takes precedence over durations of pages and rounded segments."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model.timing import play_time
from reelhaul_fetcher.model.timing.play_time import ReceivedStream
from reelhaul_runtime.errors import ReelhaulError


@pytest.mark.parametrize(
    ("received", "stated", "is_whole", "warns"),
    [
        (6.0, 0.0, False, False),
        (6.0, 6.0, False, False),
        (6.0, 7.4, False, False),
        (606.0, 600.0, False, False),
        (6.0, 20.0, True, True),
        (6.0, 6000.0, True, True),
        (6.0, 4.0, True, True),
        (6.0, 4.0, False, True),
        (6.0, 0.1, False, True),
    ],
)
def test_wrong_duration_of_a_page(received: float, stated: float, is_whole: bool, warns: bool) -> None:
    """A page that is wrong about the duration of complete media is a warning with both values."""
    warnings = play_time.compare(received, stated, is_whole=is_whole)
    assert bool(warnings) == warns
    for warning in warnings:
        assert warning.reason == MediaWarning.DURATION_DIFFERS
        assert f"{received:.1f} s" in warning.message
        assert f"{stated:.1f} s" in warning.message


@pytest.mark.parametrize("received", [0.5, 3.0, 12.0])
def test_too_short_without_evidence(received: float) -> None:
    """A file that is too short fails if nothing shows that it is whole: its end was not marked."""
    with pytest.raises(ReelhaulError) as failure:
        play_time.compare(received, 20.0, is_whole=False)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert failure.value.metadata["check"] == "duration"


@pytest.mark.parametrize(
    ("declared", "tolerance", "received", "is_reached"),
    [
        (0.0, 0.0, 1.0, True),
        (12.0, 0.0, 12.0, True),
        (12.0, 0.0, 10.6, True),
        (12.0, 0.0, 10.0, False),
        (12.0, 3.0, 10.0, True),
        (12.0, 0.0, 30.0, True),
        (600.0, 4.0, 590.0, True),
        (600.0, 4.0, 300.0, False),
    ],
)
def test_declared_duration_of_segments(
    declared: float, tolerance: float, received: float, is_reached: bool
) -> None:
    """A stream that plays less than its segments promise is a warning if its packets play no longer.

    If they do, they play over each other, and the file is not what was declared.
    """
    stream = ReceivedStream((Path("a.ts"),), declared, tolerance)
    warnings = play_time.check_declared_duration(stream, received, lambda: received + 0.5)
    assert [w.reason for w in warnings] == [MediaWarning.DURATION_DIFFERS] * (not is_reached)
    if is_reached:
        assert not play_time.check_declared_duration(stream, received, lambda: 2 * received + 2)
        return
    with pytest.raises(ReelhaulError) as failure:
        play_time.check_declared_duration(stream, received, lambda: 2 * received + 2)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
