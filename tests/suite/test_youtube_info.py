"""GET /api/v1/info: metadata, formats and an estimate before anything is downloaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite


def _get_info(suite: Suite, url: str, **query: Any) -> dict[str, Any]:
    response = suite.http.get("/api/v1/info", params={"url": url, **query})
    assert response.status_code == 200, response.text
    info: dict[str, Any] = response.json()
    return info


def test_metadata(youtube_suite: Suite, youtube: YouTube) -> None:
    """The response has streams with sizes and codecs, subtitles by kind, and chapters."""
    info = _get_info(youtube_suite, youtube.watch_url("plain2160"), quality="1080p", format="mp4")
    assert (info["title"], info["uploader"], info["duration"]) == ("A moving picture", "Reelhaul", 6)
    assert info["qualities"] == ["2160p", "1440p", "1080p", "720p", "480p", "360p", "240p", "144p"]
    by_id = {stream["format_id"]: stream for stream in info["formats"]}
    assert (by_id["137"]["height"], by_id["137"]["size_bytes"] > 0) == (1080, True)
    assert (by_id["251"]["audio_codec"], by_id["251"]["quality"]) == ("opus", "")
    kinds = {(track["language"], track["kind"]) for track in info["subtitles"]}
    assert {("en", "MANUAL"), ("de", "MANUAL")} <= kinds
    assert {"AUTO", "TRANSLATED"} <= {kind for _, kind in kinds}
    assert [chapter["title"] for chapter in info["chapters"]] == ["Beginning", "Middle", "End"]


def test_estimate(youtube_suite: Suite, youtube: YouTube) -> None:
    """The estimate is for the requested format: its size is that of the selected streams."""
    info = _get_info(youtube_suite, youtube.watch_url("plain1080"), quality="1080p", format="webm")
    sizes = [youtube.file("plain1080", itag).stat().st_size for itag in (248, 251)]
    estimate = info["estimate"]
    assert (estimate["quality"], estimate["format"], estimate["size_bytes"]) == ("1080p", "webm", sum(sizes))
    audio = _get_info(youtube_suite, youtube.watch_url("plain1080"), audio_only=True)["estimate"]
    assert audio["size_bytes"] < estimate["size_bytes"]


def test_playlist(youtube_suite: Suite, youtube: YouTube) -> None:
    """A playlist has its first max_entries entries and its length; none of its videos is requested."""
    info = _get_info(youtube_suite, youtube.playlist_url(250), max_entries=20)
    assert [entry["title"] for entry in info["entries"]] == [f"Item {number}" for number in range(1, 21)]
    assert (info["entry_count"], info["estimate"]["job_count"]) == (250, 250)
    assert youtube.count("/watch", "item0000001") == 0


def test_concurrent_requests(youtube_suite: Suite, youtube: YouTube) -> None:
    """Ten equal requests at once and one soon after make one request to the site."""
    url = youtube.watch_url("plain1080", copy=8)
    before = youtube.count("/watch", "plain1080")
    with ThreadPoolExecutor(10) as callers:
        responses = list(callers.map(lambda _: _get_info(youtube_suite, url), range(10)))
    repeated = _get_info(youtube_suite, url)
    assert youtube.count("/watch", "plain1080") - before == 1
    assert {response["probe_time"] for response in responses} == {repeated["probe_time"]}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("private", 400, "MEDIA_LOGIN_REQUIRED"),
        ("removed", 404, "MEDIA_NOT_FOUND"),
        ("copyright", 403, "MEDIA_FORBIDDEN"),
        ("player503", 424, "UPSTREAM_UNAVAILABLE"),
        ("guestquota", 424, "UPSTREAM_THROTTLED"),
        ("sabr", 502, "EXTRACTOR_FAILED"),
    ],
)
def test_error_of_site(youtube_suite: Suite, youtube: YouTube, name: str, status: int, reason: str) -> None:
    """An error of the site has its HTTP status and reason, after one request to the site."""
    before = youtube.count("/watch", name)
    response = youtube_suite.http.get("/api/v1/info", params={"url": youtube.watch_url(name)})
    assert (response.status_code, response.json()["details"][0]["reason"]) == (status, reason), response.text
    assert youtube.count("/watch", name) - before == 1


def test_live_status(youtube_suite: Suite, youtube: YouTube) -> None:
    """A broadcast and an upcoming event are not errors; the response has their live_status."""
    assert _get_info(youtube_suite, youtube.watch_url("livelong"))["live_status"] == "LIVE"
    assert _get_info(youtube_suite, youtube.watch_url("upcoming"))["live_status"] == "UPCOMING"
