"""HLS media playlists: the segments of a broadcast as they come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin

_URI = re.compile(r'URI="([^"]*)"')
_METHOD = re.compile(r"METHOD=([A-Z0-9-]+)")
_MAX_SEGMENTS = 50_000


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece: its number, where it is, how many seconds it plays, and what must be read before it."""

    number: int
    url: str
    seconds: float
    init_url: str = ""


@dataclass(frozen=True, slots=True)
class Playlist:
    """The pieces that can be had now; *target* is the longest of them, in seconds."""

    segments: tuple[Segment, ...]
    target: float
    ended: bool


class NotServed(ValueError):
    """A playlist of a kind that is not recorded; the text says which."""


def read(text: str, url: str) -> Playlist:
    """The playlist at *url*. Raises NotServed."""
    if not text.lstrip("\ufeff").startswith("#EXTM3U") or "#EXT-X-STREAM-INF" in text:
        raise NotServed("this is no media playlist")
    number, target, seconds, init = 0, 6.0, 0.0, ""
    segments: list[Segment] = []
    for line in text.splitlines():
        tag, _, value = line.strip().partition(":")
        if tag == "#EXT-X-MEDIA-SEQUENCE":
            number = int(value)
        elif tag == "#EXT-X-TARGETDURATION":
            target = float(value)
        elif tag == "#EXTINF":
            seconds = float(value.partition(",")[0])
        elif tag == "#EXT-X-MAP" and (found := _URI.search(value)):
            init = urljoin(url, found[1])
        elif tag == "#EXT-X-BYTERANGE" or (tag == "#EXT-X-KEY" and _method(value) != "NONE"):
            raise NotServed("segments that are encrypted or parts of a file are not recorded")
        elif line.strip() and not line.startswith("#"):
            segments.append(Segment(number, urljoin(url, line.strip()), seconds, init))
            number += 1
    return Playlist(tuple(segments[-_MAX_SEGMENTS:]), min(max(target, 0.5), 60.0), "#EXT-X-ENDLIST" in text)


def _method(value: str) -> str:
    found = _METHOD.search(value)
    return found[1] if found else "NONE"
