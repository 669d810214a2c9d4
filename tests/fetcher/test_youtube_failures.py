"""What YouTube refuses or breaks, as reasons: each from yt-dlp's own words, and what to do about it."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SMALL = FormatSpec(max_height=360)


async def _fails(
    youtube_harness: Harness, url: str, listener: FetchListener | None = None, spec: FormatSpec = _SMALL
) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(url, spec, listener)
    return failure.value


@pytest.mark.parametrize(
    ("name", "reason", "cause"),
    [
        ("private", "MEDIA_LOGIN_REQUIRED", "private"),
        ("members", "MEDIA_LOGIN_REQUIRED", "members"),
        ("premium", "MEDIA_LOGIN_REQUIRED", "members"),
        ("agegate", "MEDIA_LOGIN_REQUIRED", "age"),
        ("geo", "MEDIA_GEO_BLOCKED", ""),
        ("botcheck", "UPSTREAM_BLOCKED", ""),
        ("captcha", "UPSTREAM_BLOCKED", ""),
        ("wrongid", "UPSTREAM_BLOCKED", ""),
        ("guestquota", "UPSTREAM_THROTTLED", ""),
        ("removed", "MEDIA_NOT_FOUND", ""),
        ("unavailable", "MEDIA_NOT_FOUND", ""),
        ("terminated", "MEDIA_NOT_FOUND", ""),
        ("copyright", "MEDIA_FORBIDDEN", "copyright"),
        ("drm", "MEDIA_DRM_PROTECTED", ""),
        ("drm-images", "MEDIA_DRM_PROTECTED", ""),
        ("upcoming", "MEDIA_NOT_LIVE_YET", ""),
        ("livelong", "MEDIA_IS_LIVE", ""),
        ("player429", "UPSTREAM_THROTTLED", ""),
        ("player403", "MEDIA_FORBIDDEN", "403"),
        ("player500", "UPSTREAM_UNAVAILABLE", "500"),
        ("player503", "UPSTREAM_UNAVAILABLE", "503"),
        ("sabr", "EXTRACTOR_FAILED", ""),
        ("sabr-bare", "EXTRACTOR_FAILED", ""),
        ("unsolved", "EXTRACTOR_FAILED", ""),
        ("media403", "MEDIA_FORBIDDEN", "403"),
    ],
)
async def test_reasons(
    youtube_harness: Harness, youtube: YouTube, name: str, reason: str, cause: str
) -> None:
    """Each way in which YouTube says no has its reason, and where it helps a cause."""
    failure = await _fails(youtube_harness, youtube.watch_url(name))
    assert (ErrorReason.Name(failure.reason), failure.metadata.get("cause", "")) == (reason, cause), (
        failure.text
    )


@pytest.mark.parametrize("name", ["private", "guestquota", "geo", "botcheck"])
async def test_no_advice_for_another_program(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """What yt-dlp advises people at its command line is not told to callers of an API."""
    failure = await _fails(youtube_harness, youtube.watch_url(name))
    assert not any(word in failure.text for word in ("--", "-t sleep", "VPN", "wiki")), failure.text


async def test_countries(youtube_harness: Harness, youtube: YouTube) -> None:
    """Where a video may be seen is told."""
    failure = await _fails(youtube_harness, youtube.watch_url("geo"))
    assert failure.metadata["region"] == "DE,FR"


async def test_a_quota_of_an_hour(youtube_harness: Harness, youtube: YouTube) -> None:
    """What is said to last up to an hour is not tried again before."""
    failure = await _fails(youtube_harness, youtube.watch_url("guestquota"))
    assert failure.retry_delay is not None
    assert failure.retry_delay.total_seconds() >= 3600


async def test_statuses_are_counted(youtube_harness: Harness, youtube: YouTube) -> None:
    """yt-dlp hides why the player was refused; the statuses seen are told all the same."""
    listener = FetchListener()
    await _fails(youtube_harness, youtube.watch_url("player429"), listener)
    assert listener.status_counts.http_statuses.get(429, 0) >= 2


@pytest.mark.parametrize("name", ["expired", "expiring"])
async def test_expired_urls_are_asked_for_again(
    youtube_harness: Harness, youtube: YouTube, name: str
) -> None:
    """Media URLs that YouTube stops honouring, at once or in mid-file, are replaced by fresh ones."""
    result = await youtube_harness.fetch(youtube.watch_url(name, copy=3), FormatSpec())
    assert result.delivered.height >= 360
    assert youtube.count("/watch", name) == 2
    # What came before the refusal is kept: each of the two streams begins once, or once in vain.
    begun = [a for a in youtube.requests if a.video == name and a.range.startswith("bytes=0-")]
    assert len(begun) == (3 if name == "expired" else 2)


async def test_no_streams_names_the_cause(youtube_harness: Harness, youtube: YouTube) -> None:
    """Where YouTube offers no stream that can be had, the engine's version and its own words are told."""
    failure = await _fails(youtube_harness, youtube.watch_url("sabr"))
    assert "missing a URL" in failure.text
    assert failure.metadata["engineVersion"].startswith("yt-dlp 20")


@pytest.mark.parametrize("list_id", ["PLnowhere000000"])
async def test_missing_playlist(youtube_harness: Harness, list_id: str) -> None:
    """A playlist that is not there is not found."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.probe(f"https://www.youtube.com/playlist?list={list_id}", playlist=True)
    assert failure.value.reason == ErrorReason.MEDIA_NOT_FOUND


async def test_missing_channel(youtube_harness: Harness) -> None:
    """A channel that is not there is not found."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.probe("https://www.youtube.com/@nobody", playlist=True)
    assert failure.value.reason == ErrorReason.MEDIA_NOT_FOUND
