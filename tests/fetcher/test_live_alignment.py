"""Live alignment: all streams of a broadcast begin at one moment of its clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reelhaul_fetcher.model.hls_playlist import Playlist, Segment
from reelhaul_fetcher.model.timing.clocks import MPEG_TS_PERIOD
from reelhaul_fetcher.model.timing.live_alignment import Anchor, align


def _playlist(
    first: int,
    count: int,
    seconds: float = 2.0,
    *,
    date: float | None = None,
    ended: bool = False,
) -> Playlist:
    """Return a playlist of segments from number *first*, from the *date* on if that is given."""
    segments = [
        Segment(first + n, f"http://s/{n}", seconds, time=None if date is None else date + n * seconds)
        for n in range(count)
    ]
    return Playlist(tuple(segments), seconds, ended)


def _align(
    playlists: Sequence[Playlist], clocks: Sequence[float | None], *, from_start: bool = False
) -> list[Anchor]:
    """Align *playlists*, whose first segments have these timestamps."""

    def measure(index: int, segment: Segment) -> float | None:
        start, playlist = clocks[index], playlists[index]
        skipped = sum(s.seconds for s in playlist.segments if s.number < segment.number)
        return None if start is None else (start + skipped) % MPEG_TS_PERIOD

    return align(playlists, measure, from_start=from_start)


@pytest.mark.parametrize(
    ("playlists", "clocks", "anchors"),
    [
        pytest.param([_playlist(7, 6)], [None], [(10, 0)], id="one stream"),
        pytest.param([_playlist(7, 6), _playlist(7, 6)], [100, 100], [(10, 0), (10, 0)], id="alike"),
        pytest.param(
            [_playlist(7, 6), _playlist(14, 12, 1)], [100, 100], [(10, 0), (20, 0)], id="shorter segments"
        ),
        pytest.param(
            [_playlist(7, 6), _playlist(5, 6)], [100, 96], [(8, 0), (8, 0)], id="audio published later"
        ),
        pytest.param(
            [_playlist(5, 6), _playlist(7, 6)], [96, 100], [(8, 0), (8, 0)], id="video published later"
        ),
        pytest.param(
            [_playlist(7, 3, 4), _playlist(70, 6)],
            [100, 101],
            [(8, 0), (71, -1)],
            id="audio reaches less far",
        ),
        pytest.param(
            [_playlist(7, 6), _playlist(700, 6)], [100, 99], [(10, 0), (703, -1)], id="segments out of step"
        ),
        pytest.param(
            [_playlist(7, 6), _playlist(7, 6)],
            [MPEG_TS_PERIOD - 3, 1],
            [(10, 0), (8, 0)],
            id="timestamps begin again",
        ),
        pytest.param(
            [_playlist(7, 6, date=50), _playlist(70, 6, date=52)],
            [None, None],
            [(10, 0), (72, 0)],
            id="dates",
        ),
        pytest.param(
            [_playlist(7, 6, date=50), _playlist(70, 6)], [100, 102], [(10, 0), (72, 0)], id="one with dates"
        ),
        pytest.param(
            [_playlist(7, 6, date=50), _playlist(70, 6, date=90_000)],
            [100, 102],
            [(10, 0), (72, 0)],
            id="dates of several clocks",
        ),
        pytest.param([_playlist(7, 6), _playlist(6, 6)], [None, None], [(9, 0), (9, 0)], id="numbers"),
        pytest.param(
            [_playlist(7, 6), _playlist(6, 12, 1)], [None, None], [(10, 0), (12, 0)], id="live edge"
        ),
        pytest.param(
            [_playlist(7, 6), _playlist(9000, 6)], [100, 9000], [(10, 0), (9003, 0)], id="nothing in common"
        ),
        pytest.param([_playlist(7, 6), _playlist(0, 0)], [100, None], [(10, 0), (0, 0)], id="no audio yet"),
        pytest.param([_playlist(0, 0), _playlist(0, 0)], [None, None], [(0, 0), (0, 0)], id="nothing yet"),
        pytest.param(
            [_playlist(7, 6), _playlist(7, 6), _playlist(3, 12, 1)],
            [100, 98, 99],
            [(9, 0), (10, 0), (8, 0)],
            id="three streams",
        ),
    ],
)
def test_alignment(
    playlists: list[Playlist], clocks: list[float | None], anchors: list[tuple[int, float]]
) -> None:
    """Streams begin with the segment in which the recording begins: the start of one of the video."""
    aligned = _align(playlists, clocks)
    assert [anchor.number for anchor in aligned] == [number for number, _ in anchors]
    assert [anchor.position for anchor in aligned] == pytest.approx([position for _, position in anchors])


@pytest.mark.parametrize(
    ("playlists", "clocks", "numbers"),
    [
        pytest.param([_playlist(7, 6)], [None], [7], id="one stream"),
        pytest.param([_playlist(7, 6), _playlist(14, 12, 1)], [100, 100], [7, 14], id="alike"),
        pytest.param([_playlist(7, 6), _playlist(9, 4)], [100, 104], [9, 9], id="audio reaches less far"),
        pytest.param([_playlist(9, 4), _playlist(7, 6)], [104, 100], [9, 9], id="video reaches less far"),
    ],
)
def test_alignment_from_the_start(
    playlists: list[Playlist], clocks: list[float | None], numbers: list[int]
) -> None:
    """From the start, streams begin as far back as all of them reach."""
    assert [anchor.number for anchor in _align(playlists, clocks, from_start=True)] == numbers


def test_ended_broadcast() -> None:
    """A broadcast that is over is taken from its start."""
    playlists = [_playlist(7, 6, ended=True), _playlist(7, 6, ended=True)]
    assert _align(playlists, [100, 100]) == [Anchor(7, 0), Anchor(7, 0)]
