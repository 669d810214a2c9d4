"""Cues: cues at wrong times are corrected or left out, and never fail the video."""

from __future__ import annotations

import html
import math

import pytest

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.timing.cues import Cue

GOOD = Cue(1.0, 2.0, "good")


@pytest.mark.parametrize(
    ("given", "expected", "wrong"),
    [
        ([Cue(5.0, 4.0, "backwards")], [GOOD, Cue(5.0, 10.0, "backwards")], 1),
        ([Cue(5.0, 5.0, "no length")], [GOOD, Cue(5.0, 10.0, "no length")], 0),
        ([Cue(0.5, 0.5, "before another")], [Cue(0.5, 1.0, "before another"), GOOD], 0),
        ([Cue(0.9, 0.9, "just before")], [Cue(0.9, 1.4, "just before"), GOOD], 0),
        ([Cue(1.0, 1.0, "as another")], [GOOD, Cue(1.0, 6.0, "as another")], 0),
        ([Cue(3.0001, 3.0004, "a moment")], [GOOD, Cue(3.0, 8.0, "a moment")], 0),
        ([Cue(-1.0, 2.0, "early")], [Cue(0.0, 2.0, "early"), GOOD], 1),
        ([Cue(-3.0, -1.0, "before the start")], [GOOD], 1),
        ([Cue(math.nan, math.nan, "unknown")], [GOOD], 1),
        ([Cue(1e10, 1e10 + 1, "never")], [GOOD], 1),
        ([Cue(3.0, math.inf, "forever")], [GOOD], 1),
        ([Cue(0.2, 0.4, "out of order")], [Cue(0.2, 0.4, "out of order"), GOOD], 0),
        ([GOOD], [GOOD], 0),
        ([Cue(3.0, 4.0, " \x00\n\u200b ".replace("\u200b", ""))], [GOOD], 0),
    ],
)
def test_complete(given: list[Cue], expected: list[Cue], wrong: int) -> None:
    """Every cue lasts, they are in order, and none is repeated."""
    assert cues.complete([GOOD, *given]) == (expected, wrong)


@pytest.mark.parametrize(
    ("given", "expected", "misfits"),
    [
        ([Cue(66 * 3600.0, 66 * 3600.0 + 2, "far")], [GOOD], 1),
        ([Cue(5.0, 20.0, "stays")], [GOOD, Cue(5.0, 6.0, "stays")], 1),
        ([Cue(5.0, 6.5, "rounded")], [GOOD, Cue(5.0, 6.0, "rounded")], 0),
        ([Cue(6.0, 7.0, "at the end")], [GOOD], 0),
        ([Cue(6.0, 99.0, "after the end")], [GOOD], 1),
        ([Cue(5.0, 6.0, "to the end")], [GOOD, Cue(5.0, 6.0, "to the end")], 0),
        ([], [GOOD], 0),
    ],
)
def test_limit(given: list[Cue], expected: list[Cue], misfits: int) -> None:
    """Within the media: what begins after its end is left out, what ends after it ends with it."""
    assert cues.limit([GOOD, *given], 6.0) == (expected, misfits)


def test_wrong_length_of_a_site() -> None:
    """A length that loses most of the cues is not believed."""
    film = [Cue(float(n), n + 1.0, "x") for n in range(100)]
    assert cues.most_begin_before(film, 99.0)
    assert not cues.most_begin_before(film, 5.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, GOOD), (1.5, Cue(2.5, 3.5, "good")), (-0.5, Cue(0.5, 1.5, "good")), (-1.5, Cue(0.0, 0.5, "good"))],
)
def test_move(seconds: float, expected: Cue) -> None:
    """Cues that are moved begin at the start of the media at the earliest."""
    assert cues.move([GOOD], seconds) == [expected]
    assert cues.move([GOOD], -2.0) == []


@pytest.mark.parametrize(
    ("given", "start", "length", "expected"),
    [
        ([GOOD], 0.0, 10.0, [GOOD]),
        ([GOOD], 10.0, 10.0, [Cue(11.0, 12.0, "good")]),
        ([Cue(11.0, 12.0, "absolute")], 10.0, 10.0, [Cue(11.0, 12.0, "absolute")]),
        (
            [Cue(2.0, 3.0, "a"), Cue(11.0, 12.0, "b")],
            10.0,
            30.0,
            [Cue(12.0, 13.0, "a"), Cue(21.0, 22.0, "b")],
        ),
        ([Cue(1.0, 30.0, "too long")], 10.0, 10.0, [Cue(11.0, 40.0, "too long")]),
        ([], 10.0, 10.0, []),
    ],
)
def test_times_of_periods(given: list[Cue], start: float, length: float, expected: list[Cue]) -> None:
    """Times of a period are found to be its own or those of the presentation."""
    assert cues.on_presentation_time(given, start, length) == expected


def test_rolling_lines() -> None:
    """Each line of rolling automatic subtitles is kept once."""
    rolling = [
        Cue(0, 2, "one"),
        Cue(2, 2.01, "one"),
        Cue(2.01, 4, "one\ntwo"),
        Cue(4, 4.01, "two"),
        Cue(4.01, 6, "two\nthree"),
    ]
    assert [cue.text for cue in cues.remove_rolling_lines(rolling)] == ["one", "two", "three"]


@pytest.mark.parametrize("form", list(cues.EXTENSION))
def test_text_in_every_format(form: FormatSpec.Subtitles.Format.ValueType) -> None:
    """Angle brackets, ampersands, braces and every script are in each format."""
    text = "a < b > c & {d} 日本語 שלום"
    rendered = cues.render([Cue(1.0, 2.0, text)], form)
    assert text in (html.unescape(rendered) if form == FormatSpec.Subtitles.VTT else rendered)
