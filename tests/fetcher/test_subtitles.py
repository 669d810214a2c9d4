"""Pure words: subtitles, Retry-After, admission of URLs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.api.convert import check_url
from reelhaul_fetcher.model import subtitles
from reelhaul_fetcher.ytdlp.errors import parse_retry_after
from reelhaul_runtime.errors import ReelhaulError

Form = FormatSpec.Subtitles


VTT = """WEBVTT

00:01.000 --> 00:02.500 align:start
Hello <b>you</b> &amp; me

3
00:00:05.000 --> 00:00:06.000
again
"""


def test_subtitles_in_all_formats() -> None:
    """WebVTT in; SubRip, WebVTT, a transcript and JSON out."""
    cues = subtitles.parse(VTT, "vtt")
    assert (
        subtitles.render(cues, Form.SRT)
    ) == "1\n00:00:01,000 --> 00:00:02,500\nHello you & me\n\n2\n00:00:05,000 --> 00:00:06,000\nagain\n\n"
    assert "00:00:01.000 --> 00:00:02.500\nHello you &amp; me" in subtitles.render(cues, Form.VTT)
    assert subtitles.render(cues, Form.TXT) == "Hello you & me\n\nagain\n"
    assert json.loads(subtitles.render(cues, Form.JSON))[1] == {"start": 5.0, "end": 6.0, "text": "again"}
    assert cues == subtitles.parse(subtitles.render(cues, Form.SRT), "srt")


def test_rolling_captions_are_said_once() -> None:
    """Speech recognition repeats each line while the next rolls in: each is kept once."""
    rolling = [
        subtitles.Cue(0, 2, "one"),
        subtitles.Cue(2, 2.01, "one"),
        subtitles.Cue(2.01, 4, "one\ntwo"),
        subtitles.Cue(4, 4.01, "two"),
        subtitles.Cue(4.01, 6, "two\nthree"),
    ]
    assert [cue.text for cue in subtitles.remove_rolling_lines(rolling)] == ["one", "two", "three"]


def test_json3() -> None:
    """YouTube's own form of captions is read, without what only repeats."""
    events = [
        {"tStartMs": 1000, "dDurationMs": 500, "segs": [{"utf8": "so"}, {"utf8": " it is"}]},
        {"tStartMs": 1500, "aAppend": 1, "segs": [{"utf8": "\n"}]},
    ]
    assert [subtitles.Cue(1.0, 1.5, "so it is")] == subtitles.parse(json.dumps({"events": events}), "json3")


@pytest.mark.parametrize("text", ["", "no cues here", "<html>404</html>"])
def test_what_is_no_subtitle(text: str) -> None:
    """A page instead of subtitles is not taken for them."""
    with pytest.raises(ValueError, match="no cues"):
        subtitles.parse(text, "vtt")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120), ("Wed, 21 Oct 2026 07:28:30 GMT", 30), ("9999999", 86_400), ("-5", None), ("soon", None)],
)
def test_retry_after(header: str, seconds: int | None) -> None:
    """Seconds or a date; at most a day; nothing where nothing can be read."""
    now = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert expected == parse_retry_after(header, now)


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "file:///etc/passwd",
        "ftp://example.com/a",
        "ytsearch5:cats",
        "data:text/plain,hi",
        "http://",
        "http://user:secret@example.com/",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "https://example.com/\n",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_urls_that_are_not_admitted(url: str) -> None:
    """Only http and https with a host, no user info, within bounds; a secret is not repeated."""
    with pytest.raises(ReelhaulError) as failure:
        check_url(url)
    assert failure.value.reason == ErrorReason.URL_INVALID
    assert "secret" not in failure.value.metadata["url"]
