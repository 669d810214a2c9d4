"""Expansion of playlists and channels by yt-dlp's extractors, without opening any entry."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_long_playlist(youtube_harness: Harness, youtube: YouTube) -> None:
    """All entries arrive in order and in several pages, and no video page is requested."""
    listener, video_pages = FetchListener(), youtube.count("/watch")
    result = await youtube_harness.expand(youtube.playlist_url(250), listener)
    entries = listener.entries
    assert [entry.position for entry in entries] == list(range(1, 251))
    assert (entries[-1].title, entries[-1].media_id) == ("Item 250", "item0000250")
    assert entries[0].url == "https://www.youtube.com/watch?v=item0000001"
    assert entries[0].duration.seconds == 6
    assert (result.truncated, result.media.title, result.media.entry_count) == (False, "A list of 250", 250)
    assert len(listener.entry_pages) >= 3
    assert youtube.count("/watch") == video_pages
    assert listener.media_updates[0].title == "A list of 250"
    assert not listener.media_updates[0].entries
    last = listener.progress_updates[-1]
    assert (last.stage, last.entry_count) == (Progress.EXPANDING, 250)


async def test_max_entries(youtube_harness: Harness, youtube: YouTube) -> None:
    """Of ten thousand entries only the needed pages are requested, and the result is truncated."""
    listener, before = FetchListener(), youtube.count("/youtubei/v1/browse")
    result = await youtube_harness.expand(youtube.playlist_url(10_000), listener, max_entries=150)
    assert (len(listener.entries), result.truncated) == (150, True)
    assert youtube.count("/youtubei/v1/browse") - before <= 3


async def test_max_entries_of_the_whole_list(youtube_harness: Harness, youtube: YouTube) -> None:
    """A list with exactly as many entries as requested is not truncated."""
    listener = FetchListener()
    result = await youtube_harness.expand(youtube.playlist_url(120), listener, max_entries=120)
    assert (len(listener.entries), result.truncated) == (120, False)


async def test_start_position(youtube_harness: Harness, youtube: YouTube) -> None:
    """Entries up to the start position are skipped; positions count from the start of the list."""
    listener = FetchListener()
    await youtube_harness.expand(youtube.playlist_url(250), listener, max_entries=245, start_position=240)
    assert [entry.position for entry in listener.entries] == [241, 242, 243, 244, 245]


async def test_channel(youtube_harness: Harness, youtube: YouTube) -> None:
    """The page of a channel lists tabs; the videos of all tabs are the entries."""
    listener = FetchListener()
    await youtube_harness.expand(youtube.channel_url(), listener)
    ids = [entry.media_id for entry in listener.entries]
    assert len(ids) == len(set(ids)) == 45 + 25 + 12
    assert all("item" in entry.url for entry in listener.entries)


async def test_video_within_a_list(youtube_harness: Harness, youtube: YouTube) -> None:
    """A URL that names a video and its list expands to the list."""
    listener, list_id = FetchListener(), youtube.playlist_url(30).partition("list=")[2]
    await youtube_harness.expand(f"https://www.youtube.com/watch?v=item0000003&list={list_id}", listener)
    assert len(listener.entries) == 30


async def test_single_video(harness: Harness, site: Site) -> None:
    """Media that is no list has one entry: itself."""
    listener = FetchListener()
    result = await harness.expand(site.url("/watch/video"), listener)
    assert [(e.position, e.url) for e in listener.entries] == [(1, site.url("/watch/video"))]
    assert result.media.entry_count == 1


async def test_several_videos_on_a_page(harness: Harness, site: Site) -> None:
    """Videos that share a page have the URLs of their media."""
    listener = FetchListener()
    await harness.expand(site.url("/watch/several"), listener)
    assert [entry.url for entry in listener.entries] == [
        site.url("/media/720.mp4"),
        site.url("/media/360.mp4"),
    ]


async def test_missing_list(youtube_harness: Harness) -> None:
    """A list that does not exist is MEDIA_NOT_FOUND."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.expand("https://www.youtube.com/playlist?list=PLnowhere000000", FetchListener())
    assert ErrorReason.Name(failure.value.reason) == "MEDIA_NOT_FOUND"
