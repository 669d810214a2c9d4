"""Subtitle tracks: several tracks of one language are several tracks, and a request takes the right one."""

from __future__ import annotations

from typing import Any

import pytest

from reelhaul.type.v1.media_pb2 import FormatSpec, TrackRole
from reelhaul_fetcher.model.tracks import subtitle_tracks
from reelhaul_fetcher.model.tracks.subtitle_tracks import IS_DEFAULT, NUMBER, ROLE

Subtitles = FormatSpec.Subtitles
FORCED, SDH = TrackRole.TRACK_ROLE_FORCED, TrackRole.TRACK_ROLE_HEARING_IMPAIRED


def form(url: str, name: str = "", ext: str = "vtt", **properties: Any) -> dict[str, Any]:
    """Return a form of a track, as yt-dlp lists it."""
    return {"url": url, "ext": ext, "name": name, **properties}


def select(offered: dict[Any, Any], *requested: str, **options: Any) -> list[list[str]]:
    """Return the address of the first form of each candidate, for each language of *requested*."""
    kinds = options.pop("kinds", Subtitles.BOTH)
    info = {"subtitles": offered, **options}
    selections = subtitle_tracks.select_tracks(info, Subtitles(languages=requested, kinds=kinds))
    return [[track.formats[0]["url"] for track in selection.candidates] for selection in selections]


FULL_AND_FORCED = [form("forced", "English (forced)", **{ROLE: FORCED}), form("full", "English")]


@pytest.mark.parametrize(
    ("offered", "requested", "urls"),
    [
        pytest.param({"en": FULL_AND_FORCED}, "en", ["full", "forced"], id="full before forced"),
        pytest.param({"en": FULL_AND_FORCED[::-1]}, "en", ["full", "forced"], id="in either order"),
        pytest.param({"en": FULL_AND_FORCED}, "en-x-forced", ["forced"], id="forced if requested"),
        pytest.param({"en": FULL_AND_FORCED[:1]}, "en", ["forced"], id="forced if alone"),
        pytest.param({"en": FULL_AND_FORCED}, "en-x-sdh", [], id="a role that is not offered"),
        pytest.param(
            {"en": [form("sdh", "English [CC]"), form("full", "English")]},
            "en",
            ["full", "sdh"],
            id="SDH second",
        ),
        pytest.param(
            {"de_sdh": [form("sdh")], "de": [form("full")]}, "de", ["full", "sdh"], id="roles in keys"
        ),
        pytest.param(
            {"en": [form("comment", "Commentary"), form("signs", "Signs"), form("full", "English")]},
            "en",
            ["full", "signs", "comment"],
            id="three of one language",
        ),
        pytest.param({"eng": [form("a")], "ger": [form("b")]}, "de", ["b"], id="ISO 639-2"),
        pytest.param({"eng": [form("a")], "ger": [form("b")]}, "ger", ["b"], id="as the site says"),
        pytest.param({"iw": [form("a")]}, "he", ["a"], id="deprecated"),
        pytest.param({"Mine": [form("a")]}, "Mine", ["a"], id="a label that is no tag"),
        pytest.param({"English": [form("a")]}, "en", ["a"], id="a name"),
        pytest.param(
            {"und": [form("a", "Deutsch"), form("b", "English")]}, "en", ["b"], id="names of tracks"
        ),
        pytest.param(
            {"zh-Hans": [form("a")], "zh-Hant": [form("b")]}, "zh-TW", ["b"], id="script of a region"
        ),
        pytest.param(
            {"en-GB": [form("a")], "en-US": [form("b")]}, "en-US", ["b", "a"], id="nearest region first"
        ),
        pytest.param({"fr": [form("a")]}, "en", [], id="another language"),
        pytest.param(
            {"fr": [form("a")], "en": [form("b")]}, "original", ["a"], id="original is listed first"
        ),
        pytest.param(
            {"fr": [form("a", **{ROLE: FORCED})], "en": [form("b", **{IS_DEFAULT: True})]},
            "original",
            ["b"],
            id="or marked as default",
        ),
        pytest.param({None: [form("a")]}, "original", ["a"], id="without a label"),
        pytest.param({"live_chat": [form("a")]}, "original", [], id="a chat is no subtitle"),
    ],
)
def test_choice(offered: dict[Any, Any], requested: str, urls: list[str]) -> None:
    """The full track of the language comes first; another one only if it is asked for, or alone."""
    assert select(offered, requested) == [urls]


@pytest.mark.parametrize(
    ("offered", "urls"),
    [
        pytest.param({"en": FULL_AND_FORCED, "de": [form("de")]}, ["forced", "full", "de"], id="by role"),
        pytest.param({"en": [form("a"), form("b")]}, ["a", "b"], id="without names"),
        pytest.param({"en": [form("a"), form("a.srt", ext="srt")]}, ["a"], id="one in two formats"),
        pytest.param({"en": [form("a", "English"), form("b", "English")]}, ["a"], id="one at two addresses"),
        pytest.param(
            {"en": [form("a", "E", **{NUMBER: 0}), form("b", "E", **{NUMBER: 1})]}, ["a", "b"], id="numbered"
        ),
        pytest.param(
            {"en": [form(n + e, ext=e) for n in "ab" for e in ("vtt", "srt")]},
            ["avtt", "bvtt"],
            id="two in two",
        ),
        pytest.param({"en": [form("a"), "hostile", None, 5], "de": 7}, ["a"], id="broken forms"),
        pytest.param(
            {"日本語": [form("a")], "": [form("b")], None: [form("c")]}, ["a", "b", "c"], id="no tags"
        ),
    ],
)
def test_all(offered: dict[Any, Any], urls: list[str]) -> None:
    """ "all" brings every track once, also several of one language."""
    assert [url for selection in select(offered, "all") for url in selection] == urls


def test_manual_and_automatic() -> None:
    """What people wrote comes before speech recognition, unless it is only a part of what is said."""
    automatic = {"automatic_captions": {"en-orig": [form("asr")], "de": [form("translated")]}}
    assert select({"en-GB": [form("people")]}, "en", **automatic) == [["people", "asr"]]
    assert select({"en": FULL_AND_FORCED[:1]}, "en", **automatic) == [["asr", "forced"]]
    assert select({"en": [form("people")]}, "en", kinds=Subtitles.AUTO, **automatic) == [["asr"]]
    assert select({}, "de", **automatic) == [[]]


def test_known_spoken_language() -> None:
    """ "original" is the spoken language that the site states, in any code."""
    offered = {"en": [form("en")], "ger": [form("de")]}
    assert select(offered, "original", language="deu") == [["de"]]
    assert select(offered, "original", language="ja") == [[]]
    assert select({**offered, "": [form("unknown")]}, "original", language="ja") == [["unknown"]]


@pytest.mark.parametrize(
    ("heard", "url"),
    [("ger", "de"), ("de-AT", "de"), ("en", "en"), ("ja", "en"), (None, "en"), ("English", "en")],
)
def test_language_of_the_default_audio(heard: str | None, url: str) -> None:
    """ "original" is the language of the default audio if there are subtitles in it, else the first."""
    offered = {"en": [form("en")], "de": [form("de")]}
    formats = [{"language": heard, IS_DEFAULT: True}, {"language": "fr", IS_DEFAULT: False}]
    assert select(offered, "original", formats=formats)[0][0] == url


@pytest.mark.parametrize(
    "broken",
    [
        {None: None},
        {"en": None},
        {"en": [None]},
        {"en": [{"ext": "vtt"}]},
        {"en": [{"data": "x"}]},
        [],
        5,
        None,
    ],
    ids=range(8),
)
def test_broken_forms(broken: Any) -> None:
    """What yt-dlp would stumble over is left out, and nothing else."""
    assert not any(subtitle_tracks.without_broken_forms(broken).values())
    good = {"de": [form("a")]}
    both = {**broken, **good} if isinstance(broken, dict) else good
    assert subtitle_tracks.without_broken_forms(both)["de"] == good["de"]
