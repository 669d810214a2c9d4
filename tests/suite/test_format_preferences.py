"""What is preferred, required or too much, through the whole suite; the job records asked and got."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import create_download, download, wait_for_end
from tests.suite.suite import Suite

_ORIGINAL = {"audioLanguageCode": "de", "originalAudio": True}

_GOT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "the original sound": ("dubbed", {"quality": "360p"}, _ORIGINAL),
    "another sound": ("dubbed", {"quality": "360p", "audio_language": "fr"}, {"audioLanguageCode": "fr"}),
    "a sound not offered": ("dubbed", {"quality": "360p", "audio_language": "ja"}, _ORIGINAL),
    "high dynamic range": ("hdr1080", {"quality": "1080p", "hdr": "prefer"}, {"dynamicRange": "HDR10"}),
    "no high dynamic range": ("hdr1080", {"quality": "1080p"}, {"dynamicRange": None}),
    "smooth pictures": ("fps60", {"quality": "720p"}, {"frameRate": 60}),
    "fewer pictures": ("fps60", {"quality": "720p", "max_fps": 30}, {"frameRate": 25}),
    "H.264": ("plain2160", {"quality": "360p", "video_codec": "h264"}, {"videoCodec": "h264"}),
    "VP9": ("plain2160", {"quality": "360p", "video_codec": "vp9"}, {"videoCodec": "vp9"}),
    "AV1": ("plain2160", {"quality": "360p", "video_codec": "av1"}, {"videoCodec": "av1"}),
    "the best there is": ("low480", {"quality": "1080p"}, {"height": 480}),
    "the worst there is": ("low480", {"quality": "worst"}, {"height": 144}),
    "a contract that is met": ("low480", {"quality": "1080p", "min_quality": "480p"}, {"height": 480}),
}


@pytest.mark.parametrize("case", _GOT)
def test_what_is_got(youtube_suite: Suite, youtube: YouTube, case: str) -> None:
    """Of what is offered comes what was preferred, by ffprobe; what differs is told."""
    name, wishes, expected = _GOT[case]
    done = download(youtube_suite, youtube.watch_url(name), **wishes)
    job = youtube_suite.http.get(f"/v1/jobs/{done['job_id']}").json()
    got = {field: job["got"].get(field) or None for field in expected}
    assert got == {
        field: pytest.approx(value) if field == "frameRate" else value for field, value in expected.items()
    }
    assert done["quality"] == wishes["quality"]
    assert bool(done["warnings"]) == (
        case in ("a sound not offered", "the best there is", "a contract that is met")
    )


_REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a contract that is not met": ("low480", {"min_quality": "720p"}, "FORMAT_UNAVAILABLE"),
    "high dynamic range or nothing": ("plain360", {"hdr": "require"}, "FORMAT_UNAVAILABLE"),
    "too large": ("plain1080", {"max_size_bytes": 10_000}, "MEDIA_TOO_LARGE"),
    "too long": ("plain1080", {"max_duration_seconds": 5}, "MEDIA_TOO_LONG"),
    "words that are missing": ("nocaptions", {"require_subtitles": True}, "SUBTITLES_UNAVAILABLE"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_is_refused(youtube_suite: Suite, youtube: YouTube, case: str) -> None:
    """What cannot be as required, or is too much, fails at once, and before any of its media is fetched."""
    name, wishes, reason = _REFUSED[case]
    before = youtube.count("/videoplayback")
    failed = wait_for_end(youtube_suite, create_download(youtube_suite, youtube.watch_url(name), **wishes))[
        "failed"
    ]
    assert (failed["error"]["reason"], failed["attempts"]) == (reason, 1), failed["error"]
    assert youtube.count("/videoplayback") == before


def test_what_grows_too_large(suite: Suite, site: Site) -> None:
    """Where a site does not say how much it sends, no more is taken than was allowed."""
    url = site.url("/media/1080.mp4?chunked=1&token=large")
    failed = wait_for_end(suite, create_download(suite, url, max_size_bytes=100_000))["failed"]
    assert failed["error"]["reason"] == "MEDIA_TOO_LARGE", failed["error"]
    assert failed["downloaded_bytes"] < site.media.file("/media/1080.mp4").stat().st_size
