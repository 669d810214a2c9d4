"""Which URLs count as one site."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from reelhaul_runtime.sites import host_of, site_of


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.youtube.com/watch?v=1", "youtube.com"),
        ("https://youtu.be/1", "youtube.com"),
        ("https://music.youtube.com/watch?v=1", "youtube.com"),
        ("https://vm.tiktok.com/1", "tiktok.com"),
        ("https://M.Videos.example:8443/", "videos.example"),
        ("https://cdn.videos.example/", "cdn.videos.example"),
        ("https://notyoutube.com/", "notyoutube.com"),
        ("http://127.0.0.2:9/", "127.0.0.2"),
        ("http://[::1]/", "::1"),
        ("https://m.tv/", "m.tv"),
        ("file:///etc/passwd", ""),
    ],
)
def test_site_of(url, site):
    """The domains of one operator are one site; any other host is its own, without "www." and the like."""
    assert site_of(url) == site


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.youtube.com/watch?v=1", "youtube.com"),
        ("https://youtu.be/1", "youtu.be"),
        ("https://music.youtube.com/1", "music.youtube.com"),
        ("https://Mobile.Videos.Example./x", "videos.example"),
    ],
)
def test_host_of(url, host):
    """A host is not mapped to its operator's site."""
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "https://videos.example/watch?v=1",
        "https://WWW.Videos.Example./x",
        "http://videos.example",
        "http://videos.example?x",
        "http://videos.example#x",
        "http://videos.example:8080/x",
        "https://m.youtube.com/watch?v=1",
        "http://[::1]:80/x",
        "http://10.0.0.1/x",
        "https://user@videos.example/x",
        "https://пример.example/",
    ],
)
def test_site_is_of_the_parsed_host(url):
    """The fast path finds the same host as urlsplit()."""
    host = urlsplit(url).hostname
    assert site_of(url) == site_of(f"https://[{host}]/" if ":" in str(host) else f"https://{host}/")
