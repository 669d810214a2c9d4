"""Failures of YouTube: each has a reason, classified from yt-dlp's message and HTTP statuses."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SMALL = FormatSpec(max_height=360)


async def _failure(
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
    """Each refusal of YouTube has its reason, and a cause where there are several."""
    failure = await _failure(youtube_harness, youtube.watch_url(name))
    assert (ErrorReason.Name(failure.reason), failure.metadata.get("cause", "")) == (reason, cause), (
        failure.text
    )


@pytest.mark.parametrize("name", ["private", "guestquota", "geo", "botcheck"])
async def test_no_advice_for_the_command_line(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """yt-dlp's advice for its command line is removed from the message."""
    failure = await _failure(youtube_harness, youtube.watch_url(name))
    assert not any(word in failure.text for word in ("--", "-t sleep", "VPN", "wiki")), failure.text


async def test_countries(youtube_harness: Harness, youtube: YouTube) -> None:
    """The failure of a geo-blocked video names the countries where it is available."""
    failure = await _failure(youtube_harness, youtube.watch_url("geo"))
    assert failure.metadata["region"] == "DE,FR"


async def test_guest_quota(youtube_harness: Harness, youtube: YouTube) -> None:
    """A guest quota, which lasts up to an hour, is not retried earlier."""
    failure = await _failure(youtube_harness, youtube.watch_url("guestquota"))
    assert failure.retry_delay is not None
    assert failure.retry_delay.total_seconds() >= 3600


async def test_statuses_are_counted(youtube_harness: Harness, youtube: YouTube) -> None:
    """The statuses of the player API are counted, although yt-dlp hides them."""
    listener = FetchListener()
    await _failure(youtube_harness, youtube.watch_url("player429"), listener)
    assert listener.status_counts.http_statuses.get(429, 0) >= 2


@pytest.mark.parametrize("name", ["expired", "expiring"])
async def test_expired_urls_are_renewed(youtube_harness: Harness, youtube: YouTube, name: str) -> None:
    """Media URLs that expire, at once or during the download, are renewed."""
    result = await youtube_harness.fetch(youtube.watch_url(name, copy=3), FormatSpec())
    assert result.delivered.height >= 360
    assert youtube.count("/watch", name) == 2
    # Bytes received before the refusal are kept: each of the two streams starts once, or once in vain.
    starts = [r for r in youtube.requests if r.video == name and r.range.startswith("bytes=0-")]
    assert len(starts) == (3 if name == "expired" else 2)


async def test_no_streams(youtube_harness: Harness, youtube: YouTube) -> None:
    """If no stream can be downloaded, the failure has the engine's version and its last warning."""
    failure = await _failure(youtube_harness, youtube.watch_url("sabr"))
    assert "missing a URL" in failure.text
    assert failure.metadata["engineVersion"].startswith("yt-dlp 20")


@pytest.mark.parametrize("list_id", ["PLnowhere000000"])
async def test_missing_playlist(youtube_harness: Harness, list_id: str) -> None:
    """A playlist that does not exist is MEDIA_NOT_FOUND."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.probe(f"https://www.youtube.com/playlist?list={list_id}", playlist=True)
    assert failure.value.reason == ErrorReason.MEDIA_NOT_FOUND


async def test_missing_channel(youtube_harness: Harness) -> None:
    """A channel that does not exist is MEDIA_NOT_FOUND."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.probe("https://www.youtube.com/@nobody", playlist=True)
    assert failure.value.reason == ErrorReason.MEDIA_NOT_FOUND
