"""What YouTube tells of its videos: subtitles, captions, lists, and facts before any download."""

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


async def test_written_subtitles(youtube_harness: Harness, youtube: YouTube) -> None:
    """What people wrote comes in each format, with all its lines."""
    asked = Subtitles(
        languages=["en", "de"],
        kinds=Subtitles.MANUAL,
        formats=[Subtitles.SRT, Subtitles.VTT, Subtitles.TXT, Subtitles.JSON],
    )
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=asked)
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


async def test_heard_captions_do_not_roll(youtube_harness: Harness, youtube: YouTube) -> None:
    """Automatic captions have each spoken line once, and a transcript has its paragraphs."""
    asked = Subtitles(languages=["original"], kinds=Subtitles.AUTO, formats=[Subtitles.SRT, Subtitles.TXT])
    spec = FormatSpec(media_kind=FormatSpec.SUBTITLES_ONLY, subtitles=asked)
    result = await youtube_harness.fetch(youtube.watch_url("asronly"), spec)
    subtitle, transcript = (product.path.read_text() for product in result.products)
    assert subtitle.count(" --> ") == 20
    assert subtitle.count("this is line ") == 20
    assert len(transcript.strip().split("\n\n")) == 5
    assert list(result.delivered.subtitle_language_codes) == ["en"]


async def test_subtitles_beside_the_video(youtube_harness: Harness, youtube: YouTube) -> None:
    """A subtitle that YouTube refuses is a warning; the video comes all the same."""
    spec = FormatSpec(max_height=360, subtitles=Subtitles(languages=["en"]))
    result = await youtube_harness.fetch(youtube.watch_url("subs429"), spec)
    assert result.delivered.height == 360
    assert [w.reason for w in result.warnings] == [media_pb2.Warning.SUBTITLES_MISSING]


async def test_thumbnail_and_metadata(youtube_harness: Harness, youtube: YouTube) -> None:
    """The picture and all that is told of a video are files of their own."""
    spec = FormatSpec(max_height=360, thumbnail=True, info_json=True)
    result = await youtube_harness.fetch(youtube.watch_url("plain360"), spec)
    video, picture, told = result.products
    assert tools.probe(picture.path).codecs == {"video": "mjpeg"}
    assert json.loads(told.path.read_text())["uploader"] == "Reelhaul"
    assert video.info.file_name == "A moving picture.mp4"


async def test_probe(youtube_harness: Harness, youtube: YouTube) -> None:
    """A probe tells formats, subtitles by kind, chapters, languages and dates; it fetches nothing."""
    media = await youtube_harness.probe(youtube.watch_url("plain2160"))
    assert (media.extractor, media.media_id, media.title) == ("youtube", "plain2160__", "A moving picture")
    assert {2160, 1440, 1080, 720, 480, 360, 240, 144} <= {stream.height for stream in media.formats}
    assert {"avc1", "vp9", "av01"} <= {stream.video_codec.split(".")[0] for stream in media.formats}
    assert [chapter.title for chapter in media.chapters] == ["Beginning", "Middle", "End"]
    manual = [t.language_code for t in media.subtitle_tracks if t.kind == SubtitleTrack.MANUAL]
    assert manual == ["en", "de"]
    assert media.live_status == MediaInfo.NOT_LIVE
    assert (media.view_count, media.publish_time.ToJsonString()) == (1234567, "2026-01-02T03:04:05Z")


async def test_probe_of_an_announced_event(youtube_harness: Harness, youtube: YouTube) -> None:
    """An event that has not begun is an answer: what it is called, and when it begins."""
    media = await youtube_harness.probe(youtube.watch_url("upcoming"))
    assert (media.title, media.live_status, list(media.formats)) == (
        "A moving picture",
        MediaInfo.UPCOMING,
        [],
    )
    begins = media.live_start_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=1.5) < begins <= timedelta(hours=2)


async def test_probe_of_a_playlist(youtube_harness: Harness, youtube: YouTube) -> None:
    """A playlist is told flat, up to the cap, with how long it is in all."""
    media = await youtube_harness.probe(youtube.playlist_url(250), playlist=True, max_entries=120)
    assert len(media.entries) == 120
    assert media.entry_count == 250
    assert media.entries[119].url == "https://www.youtube.com/watch?v=item0000120"
    assert (media.entries[0].title, media.entries[0].position) == ("Item 1", 1)


async def test_probe_of_a_channel(youtube_harness: Harness, youtube: YouTube) -> None:
    """A channel is told with the items of all its tabs."""
    media = await youtube_harness.probe(youtube.channel_url(), playlist=True, max_entries=200)
    assert len(media.entries) == 82
