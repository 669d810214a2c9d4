"""A real yt-dlp finds in each page of the site what a person would see there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.sites.media import SECONDS
from tests.sites.pages import TITLE
from tests.sites.site import Site

# One process for all pages: starting yt-dlp costs more than asking it.
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

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(site: Site) -> Found:
    """What yt-dlp makes of each path."""
    urls = [site.url(path) for path in _PATHS]
    run = subprocess.run(
        [sys.executable, "-c", _EXTRACT_ALL, *urls], capture_output=True, text=True, check=True, timeout=90
    )
    return dict(zip(_PATHS, json.loads(run.stdout), strict=True))


def test_json_ld(found: Found) -> None:
    """JSON-LD gives title, length and chapters."""
    info = found["/watch/jsonld"]
    assert (info["title"], info["duration"]) == (TITLE, SECONDS)
    assert [chapter["title"] for chapter in info["chapters"]] == ["Beginning", "Middle", "End"]


def test_open_graph(found: Found) -> None:
    """Open Graph gives title, thumbnail and one file."""
    info = found["/watch/og"]
    assert info["title"] == TITLE
    assert info["url"].endswith("/media/1080.mp4")
    assert info["thumbnail"].endswith("/media/thumbnail.jpg")


def test_video_element(found: Found) -> None:
    """A <video> gives its three sources with their heights, and its tracks as subtitles."""
    info = found["/watch/video"]
    assert [stream["height"] for stream in info["formats"]] == [360, 720, 1080]
    assert {"en", "de"} == set(info["subtitles"])


def test_hls_in_a_page(found: Found) -> None:
    """A <video> of an HLS master gives its renditions, and only the page's own subtitles."""
    info = found["/watch/hls"]
    assert {360, 720, 1080} <= {stream.get("height") for stream in info["formats"]}
    assert {"en"} == set(info["subtitles"])


def test_direct_file(found: Found) -> None:
    """A bare file is one stream of which nothing is known."""
    info = found["/media/1080.mp4"]
    assert len(info["formats"]) == 1
    assert info.get("duration") is None


def test_hls_master(found: Found) -> None:
    """A master gives renditions, sounds by language, subtitles and the length."""
    info = found["/hls/master.m3u8"]
    assert info["duration"] == SECONDS
    assert {360, 720, 1080} <= {stream.get("height") for stream in info["formats"]}
    assert {"en", "de"} <= {stream.get("language") for stream in info["formats"]}
    assert {"en", "de"} == set(info["subtitles"])


def test_hls_of_muxed_renditions(found: Found) -> None:
    """A master of MPEG-TS renditions gives each with picture and sound in one."""
    streams = found["/hls-ts/master.m3u8"]["formats"]
    assert [stream["height"] for stream in streams] == [360, 720, 1080]
    assert all("none" not in (stream["vcodec"], stream["acodec"]) for stream in streams)


def test_dash(found: Found) -> None:
    """A DASH manifest gives pictures and sounds apart, with codecs and languages."""
    streams = found["/dash/manifest.mpd"]["formats"]
    assert {360, 720, 1080} <= {stream.get("height") for stream in streams}
    assert {"en", "de"} <= {stream.get("language") for stream in streams}
