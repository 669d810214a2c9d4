"""Metadata of YouTube's videos: subtitles, thumbnails, and probes of videos, events and lists."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.fetcher.conftest import Harness
from tests.sites import tools
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, SubtitleTrack

pytestmark = pytest.mark.asyncio(loop_scope="module")

Audio = FormatSpec.Audio
Subtitles = FormatSpec.Subtitles


async def test_manual_subtitles(youtube_harness: Harness, youtube: YouTube) -> None:
    """Manual subtitles are delivered in each format, with all lines."""
    subtitles = Subtitles(
        languages=["en", "de"],
        kinds=Subtitles.MANUAL,
        formats=[Subtitles.SRT, Subtitles.VTT, Subtitles.TXT, Subtitles.JSON],
    )
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=subtitles)
    result = await youtube_harness.fetch(youtube.watch_url("talk"), spec)
    names = [product.info.file_name for product in result.products]
    assert names == [
        f"A talk of twenty lines.{language}.{form}"
        for language in ("en", "de")
        for form in ("srt", "vtt", "txt", "json")
    ]
    texts = [product.path.read_text() for product in result.products]
    assert [text.count("line ") for text in texts] == [20] * 8
    assert "[de] this is line twenty" in texts[4]
    assert youtube.count("/videoplayback", "talk") == 0


async def test_automatic_subtitles(youtube_harness: Harness, youtube: YouTube) -> None:
    """Automatic subtitles have each spoken line once, and a transcript has paragraphs."""
    subtitles = Subtitles(
        languages=["original"], kinds=Subtitles.AUTO, formats=[Subtitles.SRT, Subtitles.TXT]
    )
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=subtitles)
    result = await youtube_harness.fetch(youtube.watch_url("asronly"), spec)
    subtitle, transcript = (product.path.read_text() for product in result.products)
    assert subtitle.count(" --> ") == 20
    assert subtitle.count("this is line ") == 20
    assert len(transcript.strip().split("\n\n")) == 5
    assert list(result.delivered.subtitle_language_codes) == ["en"]


async def test_refused_subtitles(youtube_harness: Harness, youtube: YouTube) -> None:
    """Subtitles that YouTube refuses are a warning, and the video is delivered."""
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["en"]))
    result = await youtube_harness.fetch(youtube.watch_url("subs429"), spec)
    assert result.delivered.height == 360
    assert [w.reason for w in result.warnings] == [media_pb2.Warning.SUBTITLES_MISSING]


async def test_thumbnail_and_metadata(youtube_harness: Harness, youtube: YouTube) -> None:
    """The thumbnail and the metadata are files."""
    spec = FormatSpec(max_height=360, thumbnail=True, info_json=True)
    result = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    video, thumbnail, metadata = result.products
    assert tools.probe(thumbnail.path).codecs == {"video": "mjpeg"}
    assert json.loads(metadata.path.read_text())["uploader"] == "Reelhaul"
    assert video.info.file_name == "A moving picture.mp4"


async def test_probe(youtube_harness: Harness, youtube: YouTube) -> None:
    """A probe returns formats, subtitles by kind, chapters and dates."""
    media = await youtube_harness.probe(youtube.watch_url("plain2160"))
    assert (media.extractor, media.media_id, media.title) == ("youtube", "plain2160__", "A moving picture")
    assert {2160, 1440, 1080, 720, 480, 360, 240, 144} <= {stream.height for stream in media.formats}
    assert {"avc1", "vp9", "av01"} <= {stream.video_codec.split(".")[0] for stream in media.formats}
    assert [chapter.title for chapter in media.chapters] == ["Beginning", "Middle", "End"]
    manual = [t.language_code for t in media.subtitle_tracks if t.kind == SubtitleTrack.MANUAL]
    assert manual == ["en", "de"]
    assert media.live_status == MediaInfo.NOT_LIVE
    assert (media.view_count, media.publish_time.ToJsonString()) == (1234567, "2026-01-02T03:04:05Z")


async def test_probe_of_an_upcoming_event(youtube_harness: Harness, youtube: YouTube) -> None:
    """A probe of an event that has not begun returns its title and start time."""
    media = await youtube_harness.probe(youtube.watch_url("upcoming"))
    assert (media.title, media.live_status, list(media.formats)) == (
        "A moving picture",
        MediaInfo.UPCOMING,
        [],
    )
    wait = media.live_start_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=1.5) < wait <= timedelta(hours=2)


async def test_probe_of_a_playlist(youtube_harness: Harness, youtube: YouTube) -> None:
    """A probe of a playlist returns its first entries and its length."""
    media = await youtube_harness.probe(youtube.playlist_url(250), playlist=True, max_entries=120)
    assert len(media.entries) == 120
    assert media.entry_count == 250
    assert media.entries[119].url == "https://www.youtube.com/watch?v=item0000120"
    assert (media.entries[0].title, media.entries[0].position) == ("Item 1", 1)


async def test_probe_of_a_channel(youtube_harness: Harness, youtube: YouTube) -> None:
    """A probe of a channel returns the entries of all its tabs."""
    media = await youtube_harness.probe(youtube.channel_url(), playlist=True, max_entries=200)
    assert len(media.entries) == 82
