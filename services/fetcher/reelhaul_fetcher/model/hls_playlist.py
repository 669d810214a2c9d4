"""HLS media playlists (RFC 8216): the segments of a live stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin

_URI = re.compile(r'URI="([^"]*)"')
_METHOD = re.compile(r"METHOD=([A-Z0-9-]+)")
_MAX_SEGMENTS = 50_000
_DEFAULT_TARGET_SECONDS = 6.0
_MIN_TARGET_SECONDS, _MAX_TARGET_SECONDS = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: its media sequence number, URL and play time, and the URL of its initialization section."""

    number: int
    url: str
    seconds: float
    init_url: str = ""


@dataclass(frozen=True, slots=True)
class Playlist:
    """The segments available now, and the target duration."""

    segments: tuple[Segment, ...]
    target_seconds: float
    ended: bool


class PlaylistUnsupported(ValueError):
    """A kind of playlist that cannot be recorded; the text tells which."""


def parse(text: str, url: str) -> Playlist:
    """Return the playlist at *url*. Raises PlaylistUnsupported, and ValueError for numbers that are none."""
    if not text.lstrip("\ufeff").startswith("#EXTM3U") or "#EXT-X-STREAM-INF" in text:
        raise PlaylistUnsupported("this is no media playlist")
    number, target, seconds, init_url = 0, _DEFAULT_TARGET_SECONDS, 0.0, ""
    segments: list[Segment] = []
    for line in text.splitlines():
        tag, _, value = line.strip().partition(":")
        if tag == "#EXT-X-MEDIA-SEQUENCE":
            number = int(value)
        elif tag == "#EXT-X-TARGETDURATION":
            target = float(value)
        elif tag == "#EXTINF":
            seconds = float(value.partition(",")[0])
        elif tag == "#EXT-X-MAP" and (match := _URI.search(value)):
            init_url = urljoin(url, match[1])
        elif tag == "#EXT-X-BYTERANGE" or (tag == "#EXT-X-KEY" and _key_method(value) != "NONE"):
            raise PlaylistUnsupported("segments that are encrypted or byte ranges cannot be recorded")
        elif line.strip() and not line.startswith("#"):
            segments.append(Segment(number, urljoin(url, line.strip()), seconds, init_url))
            number += 1
    target = min(max(target, _MIN_TARGET_SECONDS), _MAX_TARGET_SECONDS)
    return Playlist(tuple(segments[-_MAX_SEGMENTS:]), target, "#EXT-X-ENDLIST" in text)


def _key_method(value: str) -> str:
    match = _METHOD.search(value)
    return match[1] if match else "NONE"
