"""Format preferences, requirements and limits; the job records what was requested and what was delivered."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import create_download, download, wait_for_end
from tests.suite.suite import Suite

_ORIGINAL = {"audioLanguageCode": "de", "originalAudio": True}

_PREFERENCES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "original audio": ("dubbed", {"quality": "360p"}, _ORIGINAL),
    "another audio language": (
        "dubbed",
        {"quality": "360p", "audio_language": "fr"},
        {"audioLanguageCode": "fr"},
    ),
    "audio language not offered": ("dubbed", {"quality": "360p", "audio_language": "ja"}, _ORIGINAL),
    "HDR": ("hdr1080", {"quality": "1080p", "hdr": "prefer"}, {"dynamicRange": "HDR10"}),
    "no HDR": ("hdr1080", {"quality": "1080p"}, {"dynamicRange": None}),
    "60 frames per second": ("fps60", {"quality": "720p"}, {"frameRate": 60}),
    "limited frame rate": ("fps60", {"quality": "720p", "max_fps": 30}, {"frameRate": 25}),
    "H.264": ("plain2160", {"quality": "360p", "video_codec": "h264"}, {"videoCodec": "h264"}),
    "VP9": ("plain2160", {"quality": "360p", "video_codec": "vp9"}, {"videoCodec": "vp9"}),
    "AV1": ("plain2160", {"quality": "360p", "video_codec": "av1"}, {"videoCodec": "av1"}),
    "best below the requested quality": ("low480", {"quality": "1080p"}, {"height": 480}),
    "worst quality": ("low480", {"quality": "worst"}, {"height": 144}),
    "minimum quality met": ("low480", {"quality": "1080p", "min_quality": "480p"}, {"height": 480}),
}


@pytest.mark.parametrize("case", _PREFERENCES)
def test_delivered_format(youtube_suite: Suite, youtube: YouTube, case: str) -> None:
    """The delivered format is the preferred one of those offered; a difference is a warning."""
    name, options, expected = _PREFERENCES[case]
    completed = download(youtube_suite, youtube.watch_url(name), **options)
    job = youtube_suite.http.get(f"/v1/jobs/{completed['job_id']}").json()
    delivered = {field: job["got"].get(field) or None for field in expected}
    assert delivered == {
        field: pytest.approx(value) if field == "frameRate" else value for field, value in expected.items()
    }
    assert completed["quality"] == options["quality"]
    assert bool(completed["warnings"]) == (
        case in ("audio language not offered", "best below the requested quality", "minimum quality met")
    )


_REQUIREMENTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "minimum quality not met": ("low480", {"min_quality": "720p"}, "FORMAT_UNAVAILABLE"),
    "HDR required": ("plain360", {"hdr": "require"}, "FORMAT_UNAVAILABLE"),
    "too large": ("plain1080", {"max_size_bytes": 10_000}, "MEDIA_TOO_LARGE"),
    "too long": ("plain1080", {"max_duration_seconds": 5}, "MEDIA_TOO_LONG"),
    "subtitles required": ("nocaptions", {"require_subtitles": True}, "SUBTITLES_UNAVAILABLE"),
}


@pytest.mark.parametrize("case", _REQUIREMENTS)
def test_unmet_requirement(youtube_suite: Suite, youtube: YouTube, case: str) -> None:
    """A job whose requirements cannot be met fails in its first attempt, before media are fetched."""
    name, options, reason = _REQUIREMENTS[case]
    before = youtube.count("/videoplayback")
    job = create_download(youtube_suite, youtube.watch_url(name), **options)
    failed = wait_for_end(youtube_suite, job)["failed"]
    assert (failed["error"]["reason"], failed["attempts"]) == (reason, 1), failed["error"]
    assert youtube.count("/videoplayback") == before


def test_unknown_size_above_limit(suite: Suite, site: Site) -> None:
    """A download without a known size is cut off at max_size_bytes."""
    url = site.url("/media/1080.mp4?chunked=1&token=large")
    failed = wait_for_end(suite, create_download(suite, url, max_size_bytes=100_000))["failed"]
    assert failed["error"]["reason"] == "MEDIA_TOO_LARGE", failed["error"]
    assert failed["downloaded_bytes"] < site.media.file("/media/1080.mp4").stat().st_size
