"""Entries of lists: the URL by which each can be fetched, placeholders, and entries that are listed twice."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.site import Site
from yt_dlp.utils import smuggle_url

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.site_limits import SiteValues
from reelhaul_fetcher.ytdlp.extract.entries import EntryIndex, to_entry
from reelhaul_runtime.errors import ReelhaulError

URL = "https://site.example/v/1"
PAGE = {"_type": "playlist", "webpage_url": "https://site.example/page"}
HLS = {"url": "https://m.example/720.m3u8", "manifest_url": "https://m.example/master.m3u8"}


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ({"_type": "url", "url": URL}, URL),
        ({"_type": "url_transparent", "url": smuggle_url(URL, {"force_videoid": "ep-1"})}, URL),
        ({"_type": "url", "url": smuggle_url(f"{URL}#part", {"referer": "x"})}, f"{URL}#part"),
        ({"_type": "url", "url": "//site.example/v/1"}, "https://site.example/v/1"),
        (
            {"_type": "url", "url": "abcdefghijk", "ie_key": "Youtube"},
            "https://www.youtube.com/watch?v=abcdefghijk",
        ),
        ({"webpage_url": URL, "formats": [{"url": "https://m.example/1.mp4"}]}, URL),
        ({"webpage_url": PAGE["webpage_url"], "url": "https://m.example/1.mp4"}, "https://m.example/1.mp4"),
        (
            {
                "webpage_url": PAGE["webpage_url"],
                "formats": [{"url": "https://m.example/360.mp4"}, {"url": "https://m.example/720.mp4"}],
            },
            "https://m.example/720.mp4",
        ),
        ({"webpage_url": PAGE["webpage_url"], "formats": [HLS]}, HLS["manifest_url"]),
        ({"_type": "url", "url": "/v/1.mp3"}, "https://site.example/v/1.mp3"),
        ({"_type": "url_transparent", "url": "1.mp3"}, "https://site.example/1.mp3"),
        ({"_type": "url", "url": "12345", "ie_key": "Tube"}, None),
        ({"_type": "url", "url": "ytsearch:cats"}, None),
        ({"_type": "url", "url": "ftp://site.example/1"}, None),
        ({"_type": "url", "url": f"{URL}?{'x' * 2048}"}, None),
        ({"_type": "url"}, None),
        ({"webpage_url": PAGE["webpage_url"]}, None),
    ],
)
def test_urls_of_entries(entry: dict[str, Any], url: str | None) -> None:
    """The URL of an entry is one that can be submitted as it is, without yt-dlp's own notes."""
    result = to_entry(entry, PAGE, SiteValues())
    assert (result.url if result else None) == url


@pytest.mark.parametrize(
    ("fields", "is_listed"),
    [
        ({"title": "[Private video]"}, False),
        ({"title": "[Deleted video]"}, False),
        ({"title": " [private video] "}, False),
        ({"title": "[Unavailable video]"}, False),
        ({"title": "Anything", "availability": "private"}, False),
        ({"title": "Private video"}, True),
        ({"title": "Private video", "ie_key": "Youtube"}, False),
        ({"title": "Deleted video", "ie_key": "Youtube"}, False),
        ({"title": "Private video", "ie_key": "Youtube", "duration": 60}, True),
        ({"title": "[Private video", "ie_key": "Youtube"}, True),
        ({"title": "[Private video] of our holidays"}, True),
        ({"title": "Anything", "availability": "unlisted"}, True),
        ({"title": None}, True),
    ],
)
def test_placeholders(fields: dict[str, Any], is_listed: bool) -> None:
    """Private and deleted entries are not listed as videos."""
    assert bool(to_entry({"_type": "url", "url": URL} | fields, PAGE, SiteValues())) is is_listed


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"url": URL}, {"url": URL}, True),
        ({"url": URL, "id": "a"}, {"url": URL, "id": "b"}, True),
        ({"url": f"{URL}?t=1", "ie_key": "Tube", "id": "a"}, {"url": URL, "ie_key": "Tube", "id": "a"}, True),
        (
            {"url": f"{URL}?t=1", "ie_key": "Tube", "id": "a"},
            {"url": URL, "ie_key": "Other", "id": "a"},
            False,
        ),
        (
            {"url": f"{URL}?t=1", "ie_key": "Tube", "id": "a"},
            {"url": URL, "ie_key": "Tube", "id": "b"},
            False,
        ),
        (
            {"url": f"{URL}?t=1", "ie_key": "Generic", "id": "a"},
            {"url": URL, "ie_key": "Generic", "id": "a"},
            False,
        ),
        ({"url": f"{URL}?t=1", "id": "a"}, {"url": URL, "id": "a"}, False),
        ({"url": f"{URL}?t=1", "ie_key": "Tube"}, {"url": URL, "ie_key": "Tube"}, False),
    ],
)
def test_entries_listed_twice(first: dict[str, Any], second: dict[str, Any], is_same: bool) -> None:
    """An entry is the same as another with its URL, or with its id at the same site."""
    seen = EntryIndex()
    for entry, expected in ((first, False), (second, is_same)):
        entry = {"_type": "url"} | entry
        result = to_entry(entry, PAGE, SiteValues())
        assert result is not None
        assert seen.add(entry, result) is expected


@pytest.mark.asyncio(loop_scope="module")
async def test_feed(harness: Harness, site: Site) -> None:
    """An episode of a feed is listed with the feed's title and length; one listed twice becomes one job."""
    media = await harness.probe(site.url("/watch/feed"))
    assert [entry.title for entry in media.entries] == ["One & only", "Two", "One & only", "Away"]
    assert [entry.url for entry in media.entries[:2]] == [
        site.url("/media/720.mp4"),
        site.url("/media/360.mp4"),
    ]
    assert media.entries[0].duration.seconds == 8
    listener = FetchListener()
    await harness.expand(site.url("/watch/feed"), listener)
    assert [(entry.position, entry.url != "") for entry in listener.entries] == [
        (1, True),
        (2, True),
        (3, False),
        (4, True),
    ]


@pytest.mark.asyncio(loop_scope="module")
async def test_feed_is_no_video(harness: Harness, site: Site) -> None:
    """The URL of a feed is that of a list, not of its first episode under the name of the feed."""
    with pytest.raises(ReelhaulError, match="download it as a playlist") as failure:
        await harness.fetch(site.url("/watch/feed"))
    assert failure.value.reason == ErrorReason.SITE_UNSUPPORTED


@pytest.mark.asyncio(loop_scope="module")
async def test_videos_of_a_page_have_distinct_urls(harness: Harness, site: Site) -> None:
    """What info lists for a page with several videos are different URLs, with different titles."""
    entries = (await harness.probe(site.url("/watch/several"))).entries
    assert [entry.url for entry in entries] == [site.url("/media/720.mp4"), site.url("/media/360.mp4")]
    assert len({entry.title for entry in entries}) == 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("title", ["One & only", "", "Été / 夏"])
async def test_title_of_the_list(harness: Harness, site: Site, title: str) -> None:
    """The title that the list has for an entry names its files."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO)
    result = await harness.fetch(site.url("/media/360.mp4"), spec, title=title)
    assert result.media.title == (title or "360")
    (product,) = result.products
    assert product.info.file_name.startswith((title or "360")[:3])
