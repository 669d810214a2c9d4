"""An unpatched yt-dlp extracts from the stand-in what it extracts from YouTube, and gets the same errors."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.sites.conftest import RunYtDlp
from tests.sites.youtube.site import YouTube

Infos = dict[str, dict[str, Any]]

_PLAYABLE = (
    *("plain2160", "avc2160", "fps60", "hdr1080", "dubbed", "talk", "asronly", "nocaptions", "signed"),
    *("embeddable", "flaky-api", "live", "t-slashes", "t-shell", "t-html", "t-rtl", "t-long", "t-ext"),
)
_NO_FORMATS = "Requested format is not available"
#: yt-dlp's error for each video that cannot be downloaded.
_ERRORS = {
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
def infos(youtube: YouTube, run_yt_dlp: RunYtDlp) -> Infos:
    """yt-dlp's metadata of each playable video, by its name."""
    urls = [youtube.watch_url(name) for name in _PLAYABLE]
    result = run_yt_dlp("--dump-json", "--write-auto-subs", *urls)
    assert result.returncode == 0, result.stderr
    results = [json.loads(line) for line in result.stdout.splitlines()]
    return {info["id"].rstrip("_"): info for info in results}


@pytest.fixture(scope="module")
def error_output(youtube: YouTube, run_yt_dlp: RunYtDlp) -> str:
    """yt-dlp's error output for all videos that cannot be downloaded."""
    return run_yt_dlp("-i", "--skip-download", *(youtube.watch_url(name) for name in _ERRORS)).stderr


def _heights(info: dict[str, Any], codec: str) -> list[int]:
    return [stream["height"] for stream in info["formats"] if stream["vcodec"].startswith(codec)]


@pytest.mark.parametrize("codec", ["vp9", "av01"])
def test_heights_of_modern_codecs(infos: Infos, codec: str) -> None:
    """VP9 and AV1 streams have all heights from 144p to 2160p."""
    assert _heights(infos["plain2160"], codec) == [144, 240, 360, 480, 720, 1080, 1440, 2160]


def test_heights_of_avc(infos: Infos) -> None:
    """avc1 streams end at 1080p, except in the video ``avc2160``."""
    assert max(_heights(infos["plain2160"], "avc1")) == 1080
    assert max(_heights(infos["avc2160"], "avc1")) == 2160


def test_frame_rates_and_hdr(infos: Infos) -> None:
    """Some streams have 60 frames per second; some are HDR."""
    assert {(s["height"], s["fps"]) for s in infos["fps60"]["formats"]} >= {(720, 60), (1080, 60), (720, 25)}
    ranges = {(s["format_id"], s.get("dynamic_range")) for s in infos["hdr1080"]["formats"]}
    assert {("699", "HDR10"), ("399", "SDR")} <= ranges


def test_audio_languages(infos: Infos) -> None:
    """A dubbed video marks its original language and its default one."""
    audio_streams = [stream for stream in infos["dubbed"]["formats"] if stream["resolution"] == "audio only"]
    preferences = {stream["language"]: stream["language_preference"] for stream in audio_streams}
    assert preferences == {"de": 10, "en": 5, "fr": -1}


def test_metadata(infos: Infos) -> None:
    """A video has title, duration, chapters, views, date, channel and tags."""
    info = infos["plain2160"]
    assert (info["title"], info["duration"], info["view_count"]) == ("A moving picture", 6, 1234567)
    assert [chapter["title"] for chapter in info["chapters"]] == ["Beginning", "Middle", "End"]
    assert (info["upload_date"], info["timestamp"]) == ("20260102", 1767323045)
    assert (info["channel"], info["uploader_id"]) == ("Reelhaul", "@reelhaul")
    assert (info["channel_follower_count"], info["tags"]) == (12300, ["test", "picture"])
    assert info["thumbnail"] == "https://i.ytimg.com/vi/plain2160__/hqdefault.jpg"


def test_subtitles_and_captions(infos: Infos) -> None:
    """There are manual subtitles, automatic captions, and translations of both."""
    info = infos["talk"]
    assert set(info["subtitles"]) == {"en", "de"}
    assert {"en-orig", "en", "fr", "ja", "ja-en", "fr-de"} <= set(info["automatic_captions"])
    assert infos["asronly"]["subtitles"] == {}
    assert infos["nocaptions"]["subtitles"] == infos["nocaptions"]["automatic_captions"] == {}


def test_age_gate_playable_embedded(infos: Infos) -> None:
    """Some age-restricted videos are playable in the embedded player; their age limit is given."""
    info = infos["embeddable"]
    assert info["age_limit"] == 18
    assert "134" in {stream["format_id"] for stream in info["formats"]}


def test_broadcast(infos: Infos) -> None:
    """A broadcast is marked as live and is offered as HLS."""
    info = infos["live"]
    assert info["live_status"] == "is_live"
    assert {"m3u8_native"} == {s["protocol"] for s in info["formats"] if s["vcodec"].startswith("avc1")}


def test_hostile_titles(infos: Infos) -> None:
    """Hostile titles are not altered."""
    assert infos["t-slashes"]["title"].startswith("../../etc/passwd")
    assert "$(touch /tmp/owned)" in infos["t-shell"]["title"]
    assert "</script>" in infos["t-html"]["title"]
    assert "\u202e" in infos["t-rtl"]["title"]
    assert len(infos["t-long"]["title"].encode()) > 300


@pytest.mark.parametrize("name", _ERRORS)
def test_errors(error_output: str, name: str) -> None:
    """Each video that cannot be downloaded causes its error of yt-dlp."""
    lines = [
        line
        for line in error_output.splitlines()
        if line.startswith(f"ERROR: [youtube] {name.ljust(11, '_')}:")
    ]
    assert len(lines) == 1, error_output
    assert _ERRORS[name] in lines[0]


def test_countries(error_output: str) -> None:
    """A geo-blocked video names the countries in which it is available."""
    assert "This video is available in Germany, France." in error_output


def test_long_playlist(youtube: YouTube, run_yt_dlp: RunYtDlp) -> None:
    """A playlist of 250 items has three pages; each item has its title and duration."""
    result = run_yt_dlp(
        "--flat-playlist", "--print", "%(id)s %(title)s %(duration)d", youtube.playlist_url(250)
    )
    assert len(result.stdout.splitlines()) == 250
    assert result.stdout.splitlines()[-1] == "item0000250 Item 250 6"


def test_endless_playlist(youtube: YouTube, run_yt_dlp: RunYtDlp) -> None:
    """Of a playlist of ten thousand items only the requested pages are generated."""
    before = youtube.count("/youtubei/v1/browse")
    result = run_yt_dlp(
        "--flat-playlist", "--playlist-end", "150", "--print", "id", youtube.playlist_url(10_000)
    )
    assert len(result.stdout.splitlines()) == 150
    assert youtube.count("/youtubei/v1/browse") - before <= 3


def test_channel(youtube: YouTube, run_yt_dlp: RunYtDlp) -> None:
    """A channel lists the items of all its tabs, a tab its own; the items are playable."""
    items = run_yt_dlp("--flat-playlist", "--print", "id", youtube.channel_url()).stdout.splitlines()
    assert len(items) == len(set(items)) == 45 + 25 + 12
    tab = run_yt_dlp("--flat-playlist", "--print", "id", youtube.channel_url("shorts")).stdout.splitlines()
    assert len(tab) == 25
    result = run_yt_dlp("--print", "title", f"https://www.youtube.com/shorts/{tab[0]}")
    assert result.stdout == "Item 2001\n"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://www.youtube.com/playlist?list=PLnowhere000000", "The playlist does not exist."),
        ("https://www.youtube.com/@nobody", "HTTP Error 404"),
    ],
)
def test_missing_lists(run_yt_dlp: RunYtDlp, url: str, message: str) -> None:
    """yt-dlp reports that a playlist or channel does not exist."""
    assert message in run_yt_dlp("--flat-playlist", url).stderr


def test_range_parameter(youtube: YouTube, http_client: httpx.Client, infos: Infos) -> None:
    """``&range=`` selects a part of a stream too."""
    stream = next(s for s in infos["plain2160"]["formats"] if s["format_id"] == "18")
    whole = http_client.get(stream["url"])
    part = http_client.get(f"{stream['url']}&range=1000-1999")
    assert part.content == whole.content[1000:2000]
    assert part.status_code == 200


def test_other_hosts_are_refused(youtube: YouTube, http_client: httpx.Client) -> None:
    """Requests to other hosts and plain HTTP are refused and recorded."""
    before = len(youtube.refused)
    with pytest.raises(httpx.ProxyError):
        http_client.get("https://example.com/")
    assert http_client.get("http://www.youtube.com/watch").status_code == 403
    assert youtube.refused[before:] == ["example.com:443", "http://www.youtube.com/watch"]


def test_as_a_process(tmp_path: Path) -> None:
    """``python -m tests.sites.youtube`` prints its proxy URL and writes the CA certificate."""
    ca_file = tmp_path / "ca.pem"
    command = [sys.executable, "-m", "tests.sites.youtube", "--port", "0", "--ca-out", str(ca_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            proxy = process.stdout.readline().removeprefix("youtube ").strip()
            context = ssl.create_default_context(cafile=ca_file)
            with httpx.Client(proxy=proxy, verify=context, trust_env=False) as client:
                assert "A moving picture" in client.get("https://www.youtube.com/watch?v=plain360___").text
            status = httpx.get(f"{proxy}/_requests", trust_env=False).json()
            assert (status["counts"], status["refused"]) == ({"/watch": 1}, [])
        finally:
            process.terminate()
