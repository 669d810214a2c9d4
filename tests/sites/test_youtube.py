"""A real, unpatched yt-dlp finds in the stand-in what it finds in YouTube, and is refused as it is there."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.sites.conftest import Run
from tests.sites.youtube.site import YouTube

Found = dict[str, dict[str, Any]]

_WELL = (
    *("plain2160", "avc2160", "fps60", "hdr1080", "dubbed", "talk", "asronly", "nocaptions", "signed"),
    *("embeddable", "flaky-api", "live", "t-slashes", "t-shell", "t-html", "t-rtl", "t-long", "t-ext"),
)
_NO_FORMATS = "Requested format is not available"
#: What yt-dlp says of each video that cannot be had.
_REFUSALS = {
    "private": "Private video. Sign in if you've been granted access to this video",
    "members": "Join this channel to get access to members-only content",
    "premium": "This video is only available to Music Premium members",
    "agegate": "Sign in to confirm your age",
    "geo": "The uploader has not made this video available in your country",
    "botcheck": "Sign in to confirm you’re not a bot",
    "captcha": "YouTube is requiring a captcha challenge before playback",
    "wrongid": "All player responses are invalid. Your IP is likely being blocked",
    "guestquota": "The current session has been rate-limited by YouTube for up to an hour",
    "removed": "Video unavailable. This video has been removed by the uploader",
    "unavailable": "Video unavailable. This video is unavailable",
    "terminated": "the YouTube account associated with this video has been terminated",
    "copyright": "who has blocked it on copyright grounds",
    "drm": "This video is DRM protected",
    "drm-images": _NO_FORMATS,
    "upcoming": "This live event will begin in 2 hours.",
    "player429": "Failed to extract any player response",
    "player403": _NO_FORMATS,
    "player500": _NO_FORMATS,
    "player503": _NO_FORMATS,
    "sabr": _NO_FORMATS,
    "sabr-bare": "No video formats found!",
    "unsolved": _NO_FORMATS,
}


@pytest.fixture(scope="module")
def found(youtube: YouTube, run: Run) -> Found:
    """What yt-dlp makes of each video that can be had, by its name."""
    urls = [youtube.watch_url(name) for name in _WELL]
    done = run("--dump-json", "--write-auto-subs", *urls)
    assert done.returncode == 0, done.stderr
    infos = [json.loads(line) for line in done.stdout.splitlines()]
    return {info["id"].rstrip("_"): info for info in infos}


@pytest.fixture(scope="module")
def refused(youtube: YouTube, run: Run) -> str:
    """What yt-dlp prints of all the videos that cannot be had."""
    return run("-i", "--skip-download", *(youtube.watch_url(name) for name in _REFUSALS)).stderr


def _heights(info: dict[str, Any], codec: str) -> list[int]:
    return [stream["height"] for stream in info["formats"] if stream["vcodec"].startswith(codec)]


@pytest.mark.parametrize("codec", ["vp9", "av01"])
def test_ladder(found: Found, codec: str) -> None:
    """Pictures from 144p to 2160p come in both modern codecs."""
    assert _heights(found["plain2160"], codec) == [144, 240, 360, 480, 720, 1080, 1440, 2160]


def test_ladder_of_avc(found: Found) -> None:
    """In avc1 pictures end at 1080p, but for one video that has it all."""
    assert max(_heights(found["plain2160"], "avc1")) == 1080
    assert max(_heights(found["avc2160"], "avc1")) == 2160


def test_frame_rates_and_hdr(found: Found) -> None:
    """Some pictures move at 60 frames a second; some are HDR."""
    assert {(s["height"], s["fps"]) for s in found["fps60"]["formats"]} >= {(720, 60), (1080, 60), (720, 25)}
    ranges = {(s["format_id"], s.get("dynamic_range")) for s in found["hdr1080"]["formats"]}
    assert {("699", "HDR10"), ("399", "SDR")} <= ranges


def test_spoken_languages(found: Found) -> None:
    """A dubbed video says which language is the original, and which one it plays unasked."""
    sounds = [stream for stream in found["dubbed"]["formats"] if stream["resolution"] == "audio only"]
    preferences = {stream["language"]: stream["language_preference"] for stream in sounds}
    assert preferences == {"de": 10, "en": 5, "fr": -1}


def test_facts(found: Found) -> None:
    """A video tells its title, length, chapters, views, date, channel and tags."""
    info = found["plain2160"]
    assert (info["title"], info["duration"], info["view_count"]) == ("A moving picture", 6, 1234567)
    assert [chapter["title"] for chapter in info["chapters"]] == ["Beginning", "Middle", "End"]
    assert (info["upload_date"], info["timestamp"]) == ("20260102", 1767323045)
    assert (info["channel"], info["uploader_id"]) == ("Reelhaul", "@reelhaul")
    assert (info["channel_follower_count"], info["tags"]) == (12300, ["test", "picture"])
    assert info["thumbnail"] == "https://i.ytimg.com/vi/plain2160__/hqdefault.jpg"


def test_subtitles_and_captions(found: Found) -> None:
    """There are subtitles that people wrote, captions that were heard, and translations of either."""
    info = found["talk"]
    assert set(info["subtitles"]) == {"en", "de"}
    assert {"en-orig", "en", "fr", "ja", "ja-en", "fr-de"} <= set(info["automatic_captions"])
    assert found["asronly"]["subtitles"] == {}
    assert found["nocaptions"]["subtitles"] == found["nocaptions"]["automatic_captions"] == {}


def test_age_gate_that_the_embedded_player_opens(found: Found) -> None:
    """Some videos of an age gate play embedded; that they are for adults is told."""
    info = found["embeddable"]
    assert info["age_limit"] == 18
    assert "134" in {stream["format_id"] for stream in info["formats"]}


def test_broadcast(found: Found) -> None:
    """A broadcast is told to be on air, and comes by HLS."""
    info = found["live"]
    assert info["live_status"] == "is_live"
    assert {"m3u8_native"} == {s["protocol"] for s in info["formats"] if s["vcodec"].startswith("avc1")}


def test_hostile_titles(found: Found) -> None:
    """Titles come through as they are, whatever they try."""
    assert found["t-slashes"]["title"].startswith("../../etc/passwd")
    assert "$(touch /tmp/owned)" in found["t-shell"]["title"]
    assert "</script>" in found["t-html"]["title"]
    assert "\u202e" in found["t-rtl"]["title"]
    assert len(found["t-long"]["title"].encode()) > 300


@pytest.mark.parametrize("name", _REFUSALS)
def test_refusals(refused: str, name: str) -> None:
    """Each video that cannot be had is refused in yt-dlp's own words."""
    said = [
        line for line in refused.splitlines() if line.startswith(f"ERROR: [youtube] {name.ljust(11, '_')}:")
    ]
    assert len(said) == 1, refused
    assert _REFUSALS[name] in said[0]


def test_countries(refused: str) -> None:
    """A video of some countries only says of which."""
    assert "This video is available in Germany, France." in refused


def test_long_playlist(youtube: YouTube, run: Run) -> None:
    """A playlist of 250 comes in three pages, each item with its title and length."""
    done = run("--flat-playlist", "--print", "%(id)s %(title)s %(duration)d", youtube.playlist_url(250))
    assert len(done.stdout.splitlines()) == 250
    assert done.stdout.splitlines()[-1] == "item0000250 Item 250 6"


def test_endless_playlist(youtube: YouTube, run: Run) -> None:
    """Of ten thousand items only as many pages are made as are asked for."""
    before = youtube.count("/youtubei/v1/browse")
    done = run("--flat-playlist", "--playlist-end", "150", "--print", "id", youtube.playlist_url(10_000))
    assert len(done.stdout.splitlines()) == 150
    assert youtube.count("/youtubei/v1/browse") - before <= 3


def test_channel(youtube: YouTube, run: Run) -> None:
    """A channel holds the items of all its tabs; a tab its own; they can be played."""
    whole = run("--flat-playlist", "--print", "id", youtube.channel_url()).stdout.splitlines()
    assert len(whole) == len(set(whole)) == 45 + 25 + 12
    tab = run("--flat-playlist", "--print", "id", youtube.channel_url("shorts")).stdout.splitlines()
    assert len(tab) == 25
    played = run("--print", "title", f"https://www.youtube.com/shorts/{tab[0]}")
    assert played.stdout == "Item 2001\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://www.youtube.com/playlist?list=PLnowhere000000", "The playlist does not exist."),
        ("https://www.youtube.com/@nobody", "HTTP Error 404"),
    ],
)
def test_missing_lists(run: Run, url: str, said: str) -> None:
    """A playlist or a channel that is not there is said to be missing."""
    assert said in run("--flat-playlist", url).stderr


def test_pieces_by_query(youtube: YouTube, browser: httpx.Client, found: Found) -> None:
    """A part of a stream can be had by ``&range=`` too."""
    stream = next(s for s in found["plain2160"]["formats"] if s["format_id"] == "18")
    whole = browser.get(stream["url"])
    part = browser.get(f"{stream['url']}&range=1000-1999")
    assert part.content == whole.content[1000:2000]
    assert part.status_code == 200


def test_nothing_else_is_reached(youtube: YouTube, browser: httpx.Client) -> None:
    """Another host is refused and remembered, and so is plain HTTP."""
    before = len(youtube.refused)
    with pytest.raises(httpx.ProxyError):
        browser.get("https://example.com/")
    assert browser.get("http://www.youtube.com/watch").status_code == 403
    assert youtube.refused[before:] == ["example.com:443", "http://www.youtube.com/watch"]


def test_as_a_process(tmp_path: Path) -> None:
    """``python -m tests.sites.youtube`` says where it serves, and writes what to trust."""
    ca_file = tmp_path / "ca.pem"
    command = [sys.executable, "-m", "tests.sites.youtube", "--port", "0", "--ca-out", str(ca_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            proxy = process.stdout.readline().removeprefix("youtube ").strip()
            trust = ssl.create_default_context(cafile=ca_file)
            with httpx.Client(proxy=proxy, verify=trust, trust_env=False) as client:
                assert "A moving picture" in client.get("https://www.youtube.com/watch?v=plain360___").text
            told = httpx.get(f"{proxy}/_requests", trust_env=False).json()
            assert (told["counts"], told["refused"]) == ({"/watch": 1}, [])
        finally:
            process.terminate()
