"""Exports for players, podcast apps and media servers: titles of sites are text in each format."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree as Xml

import pytest

from reelhaul.cli.export_formats import (
    Item,
    format_episode,
    format_feed,
    format_m3u,
    format_movie,
    format_show,
    main_file,
)
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.media_pb2 import ArtifactInfo

_HOSTILE = '</title><script>alert("1")</script>\n#EXTINF:1,x\nfile:///etc/passwd\x1b]0;x\x07\uffff & 題名'
_PLAIN = '</title><script>alert("1")</script> #EXTINF:1,x file:///etc/passwd]0;x & 題名'
_LINK = "https://videos.example/v1/artifacts/a?signature=a&b=c"


@pytest.fixture
def item() -> Item:
    """A video with a hostile title."""
    job = Job(name="jobs/1", url="https://a.example/v")
    job.media.title = job.media.uploader = _HOSTILE
    job.media.description = "one\ntwo\x00"
    job.media.extractor, job.media.media_id = "generic", "id"
    job.media.publish_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    job.got.duration.FromSeconds(61)
    file = ArtifactInfo(kind=ArtifactInfo.VIDEO, file_name="v.mp4", size_bytes=7, media_type="video/mp4")
    job.artifacts.extend([ArtifactInfo(kind=ArtifactInfo.SUBTITLE), file])
    return Item(job, file, _LINK)


def test_m3u(item):
    """Each entry has two lines, whatever its title."""
    assert format_m3u([item]).split("\n") == [
        "#EXTM3U",
        f"#EXTINF:61,{_PLAIN} - {_PLAIN}",
        _LINK,
        "",
    ]


def test_feed(item):
    """A feed is valid XML; dates, sizes and links are those of the media."""
    channel = Xml.fromstring(format_feed([item], title="<&>", link="https://videos.example")).find("channel")
    assert channel is not None
    assert channel.findtext("title") == "<&>"
    entry = channel.find("item")
    assert entry is not None
    assert entry.findtext("title") == _PLAIN
    assert entry.findtext("description") == "one\ntwo"
    published = parsedate_to_datetime(entry.findtext("pubDate") or "")
    assert published == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    enclosure = entry.find("enclosure")
    assert enclosure is not None
    assert enclosure.attrib == {"url": _LINK, "length": "7", "type": "video/mp4"}


def test_nfo(item):
    """NFO files of movies, episodes and shows have the metadata, and unknown values are left out."""
    movie = Xml.fromstring(format_movie(item))
    assert (movie.tag, movie.findtext("title"), movie.findtext("premiered")) == (
        "movie",
        _PLAIN,
        "2026-01-02",
    )
    episode = Xml.fromstring(format_episode(item, show="A show", number=3))
    assert (episode.findtext("showtitle"), episode.findtext("episode")) == ("A show", "3")
    show = Xml.fromstring(format_show(Job()))
    assert (show.tag, list(show)) == ("tvshow", [])


def test_main_file(item):
    """The main file is the video or audio, also if it is not the first; transcripts alone have none."""
    assert main_file(item.job) == item.file
    assert main_file(Job(artifacts=[ArtifactInfo(kind=ArtifactInfo.SUBTITLE)])) is None
