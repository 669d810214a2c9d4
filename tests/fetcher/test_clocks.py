"""Clocks: the relative starts of separately delivered streams, by their timestamps and playlists."""

from __future__ import annotations

import math

import pytest

from reelhaul_fetcher.model.timing.clocks import (
    MPEG_TS_PERIOD,
    Clock,
    align,
    plan_recorded_timeline,
    plan_timeline,
)


@pytest.mark.parametrize(
    ("clocks", "delays"),
    [
        pytest.param([Clock(10, 6), Clock(11, 5)], [0, 1], id="audio later"),
        pytest.param([Clock(11, 5), Clock(10, 6)], [1, 0], id="audio earlier"),
        pytest.param([Clock(10, 6), Clock(11.5, 5), Clock(9, 8)], [1, 2.5, 0], id="three streams"),
        pytest.param([Clock(-0.5, 6), Clock(0.5, 5)], [0, 1], id="timestamps before zero"),
        pytest.param([Clock(10, 6), Clock(10.021, 6)], [0, 0], id="priming of an encoder"),
        pytest.param([Clock(0, 6), Clock(500, 6)], [0, 0], id="another clock"),
        pytest.param([Clock(500, 6), Clock(0, 6)], [0, 0], id="another clock, the other way"),
        pytest.param([Clock(0), Clock(40)], [0, 40], id="unknown durations"),
        pytest.param([Clock(0), Clock(70)], [0, 0], id="unknown durations, too far apart"),
        pytest.param([Clock(10, 6), Clock(None, 5)], [0, 0], id="audio without timestamps"),
        pytest.param([Clock(None, 6), Clock(10, 5)], [0, 0], id="video without timestamps"),
        pytest.param(
            [Clock(MPEG_TS_PERIOD - 1, 6, MPEG_TS_PERIOD), Clock(0.5, 6, MPEG_TS_PERIOD)],
            [0, 1.5],
            id="timestamps begin again",
        ),
        pytest.param(
            [Clock(2, 6, MPEG_TS_PERIOD), Clock(MPEG_TS_PERIOD - 1, 6, MPEG_TS_PERIOD)],
            [3, 0],
            id="timestamps begin again, audio earlier",
        ),
        pytest.param(
            [Clock(10, 6).shifted(10), Clock(101, 5).shifted(100)], [0, 1], id="presentation time offsets"
        ),
        pytest.param([Clock(5, 6)], [0], id="one stream"),
    ],
)
def test_alignment(clocks: list[Clock], delays: list[float]) -> None:
    """Streams on one clock keep the difference between their starts; others begin together."""
    assert align(clocks) == pytest.approx(delays)


@pytest.mark.parametrize(
    ("clocks", "playlist_starts", "delays"),
    [
        pytest.param([Clock(10, 6), Clock(11.3, 6)], [0, 1], [0, 1.3], id="timestamps are more exact"),
        pytest.param([Clock(None, 6), Clock(None, 6)], [0, -2], [2, 0], id="no timestamps"),
        pytest.param([Clock(10, 60), Clock(50, 60)], [0, 1], [0, 1], id="timestamps of another clock"),
        pytest.param([Clock(10, 600), Clock(50, 600)], [5, 45], [0, 40], id="far apart, and listed so"),
    ],
)
def test_alignment_by_playlists(
    clocks: list[Clock], playlist_starts: list[float], delays: list[float]
) -> None:
    """Starts in playlists are used where timestamps are missing or contradict them."""
    assert align(clocks, playlist_starts) == pytest.approx(delays)


@pytest.mark.parametrize(
    ("clocks", "length"),
    [
        ([Clock(10, 6), Clock(11, 6)], 7),
        ([Clock(10, 6), Clock(11, 3)], 6),
        ([Clock(10, 6), Clock(11)], 6),
        ([Clock(10), Clock(11)], 0),
    ],
)
def test_length(clocks: list[Clock], length: float) -> None:
    """A file lasts from the first start to the last end that is known."""
    assert plan_timeline(clocks).length == pytest.approx(length)


@pytest.mark.parametrize(
    ("clocks", "playlist_starts", "playlist_end", "delays", "length", "end"),
    [
        pytest.param(
            [Clock(10, 8), Clock(9, 10)], [0, -1], 8, [0, -1], 8, 8, id="audio is cut on both sides"
        ),
        pytest.param([Clock(10, 9), Clock(10, 8.5)], [0, 0], 8, [0, 0], 8.5, 8.5, id="all are longer"),
        pytest.param([Clock(10, 9), Clock(10, 3)], [0, 0], 8, [0, 0], 8, 8, id="audio ended early"),
        pytest.param([Clock(10, 9), Clock(10, 3)], [0, 0], math.inf, [0, 0], 9, math.inf, id="no common end"),
        pytest.param([Clock(10, 8), Clock(12, 6)], [0, 2], 8, [0, 2], 8, math.inf, id="audio later"),
        pytest.param([Clock(10), Clock(9)], [0, -1], 8, [0, -1], 0, math.inf, id="unknown durations"),
        pytest.param([Clock(10, 8)], [0], 6, [0], 8, math.inf, id="one stream"),
    ],
)
def test_recorded_timeline(
    clocks: list[Clock],
    playlist_starts: list[float],
    playlist_end: float,
    delays: list[float],
    length: float,
    end: float,
) -> None:
    """A recording begins with its video and ends where all streams were to end; nothing else is lost."""
    timeline = plan_recorded_timeline(clocks, playlist_starts, playlist_end)
    assert list(timeline.delays) == pytest.approx(delays)
    assert (timeline.length, timeline.end) == (pytest.approx(length), end)
