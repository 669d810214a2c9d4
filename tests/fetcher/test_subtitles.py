"""Parsing and rendering of subtitles."""

from __future__ import annotations

import json

import pytest

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model import subtitles

Form = FormatSpec.Subtitles


VTT = """WEBVTT

00:01.000 --> 00:02.500 align:start
Hello <b>you</b> &amp; me

3
00:00:05.000 --> 00:00:06.000
again
"""


def test_formats() -> None:
    """WebVTT is rendered as SubRip, WebVTT, a transcript and JSON, and SubRip is parsed back."""
    cues = subtitles.parse(VTT, "vtt")
    assert (
        subtitles.render(cues, Form.SRT)
    ) == "1\n00:00:01,000 --> 00:00:02,500\nHello you & me\n\n2\n00:00:05,000 --> 00:00:06,000\nagain\n\n"
    assert "00:00:01.000 --> 00:00:02.500\nHello you &amp; me" in subtitles.render(cues, Form.VTT)
    assert subtitles.render(cues, Form.TXT) == "Hello you & me\n\nagain\n"
    assert json.loads(subtitles.render(cues, Form.JSON))[1] == {"start": 5.0, "end": 6.0, "text": "again"}
    assert cues == subtitles.parse(subtitles.render(cues, Form.SRT), "srt")


def test_rolling_lines() -> None:
    """Each line of rolling automatic subtitles is kept once."""
    cues = [
        subtitles.Cue(0, 2, "one"),
        subtitles.Cue(2, 2.01, "one"),
        subtitles.Cue(2.01, 4, "one\ntwo"),
        subtitles.Cue(4, 4.01, "two"),
        subtitles.Cue(4.01, 6, "two\nthree"),
    ]
    assert [cue.text for cue in subtitles.remove_rolling_lines(cues)] == ["one", "two", "three"]


def test_json3() -> None:
    """YouTube's json3 is parsed, without the events that only append a line break."""
    events = [
        {"tStartMs": 1000, "dDurationMs": 500, "segs": [{"utf8": "so"}, {"utf8": " it is"}]},
        {"tStartMs": 1500, "aAppend": 1, "segs": [{"utf8": "\n"}]},
    ]
    assert [subtitles.Cue(1.0, 1.5, "so it is")] == subtitles.parse(json.dumps({"events": events}), "json3")


@pytest.mark.parametrize("text", ["", "no cues here", "<html>404</html>"])
def test_no_cues(text: str) -> None:
    """Text without cues, such as a web page, is refused."""
    with pytest.raises(ValueError, match="no cues"):
        subtitles.parse(text, "vtt")
