"""What a URL holds, told before anything is fetched: GET /api/v1/info through the whole suite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite


def _info(suite: Suite, url: str, **asked: Any) -> dict[str, Any]:
    answer = suite.http.get("/api/v1/info", params={"url": url, **asked})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_what_there_is(youtube_suite: Suite, youtube: YouTube) -> None:
    """Streams with their sizes, words by how they were made, chapters, and who spoke what."""
    told = _info(youtube_suite, youtube.watch_url("plain2160"), quality="1080p", format="mp4")
    assert (told["title"], told["uploader"], told["duration"]) == ("A moving picture", "Reelhaul", 6)
    assert told["qualities"] == ["2160p", "1440p", "1080p", "720p", "480p", "360p", "240p", "144p"]
    by_id = {one["format_id"]: one for one in told["formats"]}
    assert (by_id["137"]["height"], by_id["137"]["size_bytes"] > 0) == (1080, True)
    assert (by_id["251"]["audio_codec"], by_id["251"]["quality"]) == ("opus", "")
    kinds = {(one["language"], one["kind"]) for one in told["subtitles"]}
    assert {("en", "MANUAL"), ("de", "MANUAL")} <= kinds
    assert {"AUTO", "TRANSLATED"} <= {kind for _, kind in kinds}
    assert [chapter["title"] for chapter in told["chapters"]] == ["Beginning", "Middle", "End"]


def test_what_it_would_take(youtube_suite: Suite, youtube: YouTube) -> None:
    """The estimate is for what is asked: its size is that of the streams that would be fetched."""
    told = _info(youtube_suite, youtube.watch_url("plain1080"), quality="1080p", format="webm")
    sizes = [youtube.file("plain1080", itag).stat().st_size for itag in (248, 251)]
    estimate = told["estimate"]
    assert (estimate["quality"], estimate["format"], estimate["size_bytes"]) == ("1080p", "webm", sum(sizes))
    sound = _info(youtube_suite, youtube.watch_url("plain1080"), audio_only=True)["estimate"]
    assert sound["size_bytes"] < estimate["size_bytes"]


def test_a_playlist(youtube_suite: Suite, youtube: YouTube) -> None:
    """A list is told flat, as far as asked, with how long it is; none of its videos is opened."""
    told = _info(youtube_suite, youtube.playlist_url(250), max_entries=20)
    assert [entry["title"] for entry in told["entries"]] == [f"Item {number}" for number in range(1, 21)]
    assert (told["entry_count"], told["estimate"]["job_count"]) == (250, 250)
    assert youtube.count("/watch", "item0000001") == 0


def test_ten_who_ask_at_once(youtube_suite: Suite, youtube: YouTube) -> None:
    """Equal questions at once are one to the site, and so is one that comes soon after."""
    url = youtube.watch_url("plain1080", copy=8)
    before = youtube.count("/watch", "plain1080")
    with ThreadPoolExecutor(10) as callers:
        answers = list(callers.map(lambda _: _info(youtube_suite, url), range(10)))
    again = _info(youtube_suite, url)
    assert youtube.count("/watch", "plain1080") - before == 1
    assert {answer["probe_time"] for answer in answers} == {again["probe_time"]}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("private", 400, "MEDIA_LOGIN_REQUIRED"),
        ("removed", 404, "MEDIA_NOT_FOUND"),
        ("copyright", 403, "MEDIA_FORBIDDEN"),
        ("player503", 503, "UPSTREAM_UNAVAILABLE"),
        ("guestquota", 503, "UPSTREAM_THROTTLED"),
        ("sabr", 500, "EXTRACTOR_FAILED"),
    ],
)
def test_what_the_site_refuses(
    youtube_suite: Suite, youtube: YouTube, name: str, status: int, reason: str
) -> None:
    """What a site says no to is the answer's status, with the reason for programs; it is asked once."""
    before = youtube.count("/watch", name)
    answer = youtube_suite.http.get("/api/v1/info", params={"url": youtube.watch_url(name)})
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (status, reason), answer.text
    assert youtube.count("/watch", name) - before == 1


def test_what_is_live(youtube_suite: Suite, youtube: YouTube) -> None:
    """A broadcast, and one that has not begun, are answers, not errors."""
    assert _info(youtube_suite, youtube.watch_url("livelong"))["live_status"] == "LIVE"
    assert _info(youtube_suite, youtube.watch_url("upcoming"))["live_status"] == "UPCOMING"
