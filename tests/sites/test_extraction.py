"""An unpatched yt-dlp extracts the video and its metadata from each page of the site."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.sites.media import SECONDS
from tests.sites.pages import TITLE
from tests.sites.site import Site

# One process for all pages, because starting yt-dlp is slower than extracting.
_EXTRACT_ALL = """
import json, sys, yt_dlp
with yt_dlp.YoutubeDL({"proxy": "", "quiet": True, "no_warnings": True, "cachedir": False}) as ydl:
    print(json.dumps([ydl.sanitize_info(ydl.extract_info(url, download=False)) for url in sys.argv[1:]]))
"""
_PATHS = (
    "/watch/jsonld",
    "/watch/og",
    "/watch/video",
    "/watch/hls",
    "/media/1080.mp4",
    "/hls/master.m3u8",
    "/hls-ts/master.m3u8",
    "/dash/manifest.mpd",
)

Infos = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def infos(site: Site) -> Infos:
    """yt-dlp's metadata of each path."""
    urls = [site.url(path) for path in _PATHS]
    run = subprocess.run(
        [sys.executable, "-c", _EXTRACT_ALL, *urls], capture_output=True, text=True, check=True, timeout=90
    )
    return dict(zip(_PATHS, json.loads(run.stdout), strict=True))


def test_json_ld(infos: Infos) -> None:
    """JSON-LD gives title, duration and chapters."""
    info = infos["/watch/jsonld"]
    assert (info["title"], info["duration"]) == (TITLE, SECONDS)
    assert [chapter["title"] for chapter in info["chapters"]] == ["Beginning", "Middle", "End"]


def test_open_graph(infos: Infos) -> None:
    """Open Graph gives title, thumbnail and one file."""
    info = infos["/watch/og"]
    assert info["title"] == TITLE
    assert info["url"].endswith("/media/1080.mp4")
    assert info["thumbnail"].endswith("/media/thumbnail.jpg")


def test_video_element(infos: Infos) -> None:
    """A <video> gives its three sources with their heights, and its tracks as subtitles."""
    info = infos["/watch/video"]
    assert [stream["height"] for stream in info["formats"]] == [360, 720, 1080]
    assert {"en", "de"} == set(info["subtitles"])


def test_hls_in_a_page(infos: Infos) -> None:
    """A <video> with an HLS master gives its renditions, and only the page's own subtitles."""
    info = infos["/watch/hls"]
    assert {360, 720, 1080} <= {stream.get("height") for stream in info["formats"]}
    assert {"en"} == set(info["subtitles"])


def test_direct_file(infos: Infos) -> None:
    """A file without a page is one stream without metadata."""
    info = infos["/media/1080.mp4"]
    assert len(info["formats"]) == 1
    assert info.get("duration") is None


def test_hls_master(infos: Infos) -> None:
    """A master playlist gives renditions, audio by language, subtitles and the duration."""
    info = infos["/hls/master.m3u8"]
    assert info["duration"] == SECONDS
    assert {360, 720, 1080} <= {stream.get("height") for stream in info["formats"]}
    assert {"en", "de"} <= {stream.get("language") for stream in info["formats"]}
    assert {"en", "de"} == set(info["subtitles"])


def test_hls_muxed(infos: Infos) -> None:
    """The MPEG-TS renditions of a master playlist have video and audio."""
    streams = infos["/hls-ts/master.m3u8"]["formats"]
    assert [stream["height"] for stream in streams] == [360, 720, 1080]
    assert all("none" not in (stream["vcodec"], stream["acodec"]) for stream in streams)


def test_dash(infos: Infos) -> None:
    """A DASH manifest gives separate video and audio streams, with heights and languages."""
    streams = infos["/dash/manifest.mpd"]["formats"]
    assert {360, 720, 1080} <= {stream.get("height") for stream in streams}
    assert {"en", "de"} <= {stream.get("language") for stream in streams}
