"""Formats for other programs: M3U playlists, podcast feeds, and the NFO files of Jellyfin and Kodi."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from xml.etree import ElementTree as Xml

from reelhaul.cli.output import printable
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.media_pb2 import ArtifactInfo

# What XML 1.0 does not allow, beside control characters.
_NO_CHARACTERS = {0xFFFE: None, 0xFFFF: None}
_ITUNES = "http://www.itunes.com/dtds/podcast-1.0.dtd"


@dataclass(frozen=True, slots=True)
class Item:
    """A job that succeeded, its main file, and where that is: a link, or a path."""

    job: Job
    file: ArtifactInfo
    location: str

    @property
    def title(self) -> str:
        """Title of the media, or the name of the file."""
        return _text(self.job.media.title or self.file.file_name)

    @property
    def seconds(self) -> int:
        """Duration of the media; 0 if it is unknown."""
        got, media = self.job.got.duration, self.job.media.duration
        return round((got if got.seconds else media).ToTimedelta().total_seconds())

    @property
    def time(self) -> datetime:
        """When the site published the media, or else when it was downloaded."""
        media = self.job.media
        time = media.publish_time if media.HasField("publish_time") else self.job.end_time
        return time.ToDatetime(UTC)


def main_file(job: Job) -> ArtifactInfo | None:
    """Return the video or audio of *job*; None without one."""
    kinds = (ArtifactInfo.VIDEO, ArtifactInfo.AUDIO)
    return next((file for file in job.artifacts if file.kind in kinds), None)


def format_m3u(items: Iterable[Item]) -> str:
    """Return an extended M3U playlist in UTF-8."""
    lines = ["#EXTM3U"]
    for item in items:
        artist = f"{_text(item.job.media.uploader)} - " if item.job.media.uploader else ""
        lines += [f"#EXTINF:{item.seconds or -1},{artist}{item.title}", item.location]
    return "\n".join(lines) + "\n"


def format_feed(items: Iterable[Item], *, title: str, link: str) -> str:
    """Return an RSS 2.0 feed with the elements that podcast players read."""
    Xml.register_namespace("itunes", _ITUNES)
    rss = Xml.Element("rss", version="2.0")
    channel = Xml.SubElement(rss, "channel")
    _add(channel, "title", title)
    _add(channel, "link", link)
    _add(channel, "description", title)
    for item in items:
        _add_item(channel, item)
    return _document(rss)


def _add_item(channel: Xml.Element, item: Item) -> None:
    media, element = item.job.media, Xml.SubElement(channel, "item")
    _add(element, "title", item.title)
    _add(element, "link", media.url or item.job.url)
    _add(element, "description", media.description)
    _add(element, "pubDate", format_datetime(item.time))
    _add(element, "guid", item.job.name, isPermaLink="false")
    if item.seconds:
        _add(element, f"{{{_ITUNES}}}duration", str(item.seconds))
    _add(element, f"{{{_ITUNES}}}author", media.uploader)
    Xml.SubElement(
        element,
        "enclosure",
        url=item.location,
        length=str(item.file.size_bytes),
        type=item.file.media_type,
    )


def format_movie(item: Item) -> str:
    """Return the NFO file of a single video."""
    return _document(_details(item, "movie"))


def format_episode(item: Item, *, show: str, number: int) -> str:
    """Return the NFO file of an entry of a playlist: episode *number* of its only season."""
    details = _details(item, "episodedetails")
    _add(details, "showtitle", show)
    _add(details, "season", "1")
    _add(details, "episode", str(number))
    return _document(details)


def format_show(job: Job) -> str:
    """Return the NFO file of a playlist."""
    show = Xml.Element("tvshow")
    _add(show, "title", job.media.title)
    _add(show, "plot", job.media.description)
    _add(show, "studio", job.media.uploader)
    return _document(show)


def _details(item: Item, tag: str) -> Xml.Element:
    media, details = item.job.media, Xml.Element(tag)
    _add(details, "title", item.title)
    _add(details, "plot", media.description)
    _add(details, "studio", media.uploader)
    _add(details, "premiered", f"{item.time:%Y-%m-%d}")
    _add(details, "year", f"{item.time:%Y}")
    _add(details, "runtime", str(item.seconds // 60) if item.seconds else "")
    if media.media_id:
        _add(details, "uniqueid", media.media_id, type=media.extractor, default="true")
    return details


def _add(parent: Xml.Element, tag: str, text: str, **attributes: str) -> None:
    """Add an element, unless *text* is empty."""
    if text:
        Xml.SubElement(parent, tag, attributes).text = "\n".join(_text(line) for line in text.splitlines())


def _text(text: str) -> str:
    """Return *text* without characters that XML and M3U do not allow; it comes from sites."""
    return printable(text).translate(_NO_CHARACTERS)


def _document(root: Xml.Element) -> str:
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"
