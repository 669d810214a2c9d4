"""Lists: paged through by yt-dlp's own extractors, entry by entry, none of them opened."""

from __future__ import annotations

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.site import Site
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import PlaylistEntry, Progress
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")


def told(listener: FetchListener) -> list[PlaylistEntry]:
    return [entry for page in listener.entry_pages for entry in page]


async def test_a_long_playlist(youtube_harness: Harness, youtube: YouTube) -> None:
    """All entries come in order, the first ones before the last page is asked for, and no video is opened."""
    listener, watched = FetchListener(), youtube.count("/watch")
    result = await youtube_harness.expand(youtube.playlist_url(250), listener)
    entries = told(listener)
    assert [entry.position for entry in entries] == list(range(1, 251))
    assert (entries[-1].title, entries[-1].media_id) == ("Item 250", "item0000250")
    assert entries[0].url == "https://www.youtube.com/watch?v=item0000001"
    assert entries[0].duration.seconds == 6
    assert (result.truncated, result.media.title, result.media.entry_count) == (False, "A list of 250", 250)
    assert len(listener.entry_pages) >= 3
    assert youtube.count("/watch") == watched
    assert listener.media_updates[0].title == "A list of 250"
    assert not listener.media_updates[0].entries
    last = listener.progress_updates[-1]
    assert (last.stage, last.entry_count) == (Progress.EXPANDING, 250)


async def test_no_more_than_asked(youtube_harness: Harness, youtube: YouTube) -> None:
    """Of ten thousand entries only as many pages are made as the cap needs; that there are more is told."""
    listener, before = FetchListener(), youtube.count("/youtubei/v1/browse")
    result = await youtube_harness.expand(youtube.playlist_url(10_000), listener, max_entries=150)
    assert (len(told(listener)), result.truncated) == (150, True)
    assert youtube.count("/youtubei/v1/browse") - before <= 3


async def test_a_cap_that_fits_is_no_cut(youtube_harness: Harness, youtube: YouTube) -> None:
    """A list with just as many entries as are asked for is whole."""
    listener = FetchListener()
    result = await youtube_harness.expand(youtube.playlist_url(120), listener, max_entries=120)
    assert (len(told(listener)), result.truncated) == (120, False)


async def test_beginning_in_the_middle(youtube_harness: Harness, youtube: YouTube) -> None:
    """What earlier leases took is passed over, positions count on."""
    listener = FetchListener()
    await youtube_harness.expand(youtube.playlist_url(250), listener, max_entries=245, start_position=240)
    assert [entry.position for entry in told(listener)] == [241, 242, 243, 244, 245]


async def test_a_channel_is_its_tabs(youtube_harness: Harness, youtube: YouTube) -> None:
    """A channel's own page lists tabs; their videos are what is wanted."""
    listener = FetchListener()
    await youtube_harness.expand(youtube.channel_url(), listener)
    ids = [entry.media_id for entry in told(listener)]
    assert len(ids) == len(set(ids)) == 45 + 25 + 12
    assert all("item" in entry.url for entry in told(listener))


async def test_a_video_within_a_list(youtube_harness: Harness, youtube: YouTube) -> None:
    """Who asks for the list at a URL that names a video of it, gets the list."""
    listener, list_id = FetchListener(), youtube.playlist_url(30).partition("list=")[2]
    await youtube_harness.expand(f"https://www.youtube.com/watch?v=item0000003&list={list_id}", listener)
    assert len(told(listener)) == 30


async def test_a_single_video_is_a_list_of_one(harness: Harness, site: Site) -> None:
    """Media that is no list is one entry, itself."""
    listener = FetchListener()
    result = await harness.expand(site.url("/watch/video"), listener)
    assert [(e.position, e.url) for e in told(listener)] == [(1, site.url("/watch/video"))]
    assert result.media.entry_count == 1


async def test_several_videos_on_a_page(harness: Harness, site: Site) -> None:
    """Videos that share a page are told apart by their media."""
    listener = FetchListener()
    await harness.expand(site.url("/watch/several"), listener)
    assert [entry.url for entry in told(listener)] == [site.url("/media/720.mp4"), site.url("/media/360.mp4")]


async def test_a_missing_list(youtube_harness: Harness) -> None:
    """A list that is not there fails as media that is not there does."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.expand("https://www.youtube.com/playlist?list=PLnowhere000000", FetchListener())
    assert ErrorReason.Name(failure.value.reason) == "MEDIA_NOT_FOUND"
