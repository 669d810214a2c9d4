"""HLS media playlists (RFC 8216): the segments of a live stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin

from reelhaul_fetcher.model import site_limits

_URI = re.compile(r'URI="([^"]*)"')
_METHOD = re.compile(r"METHOD=([A-Z0-9-]+)")
_MAX_SEGMENTS = 50_000
_DEFAULT_TARGET_SECONDS = 6.0
_MIN_TARGET_SECONDS, _MAX_TARGET_SECONDS = 0.5, 60.0
# A shorter segment counts as this long: recordings are limited by play time.
_MIN_SEGMENT_SECONDS, _MAX_SEGMENT_SECONDS = 0.1, 3600.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: its media sequence number, URL and play time, and the URL of its initialization section.

    *time* is EXT-X-PROGRAM-DATE-TIME in seconds since 1970, counted on from an earlier segment that tells it;
    None if none does.
    """

    number: int
    url: str
    seconds: float
    init_url: str = ""
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Playlist:
    """The segments available now, and the target duration."""

    segments: tuple[Segment, ...]
    target_seconds: float
    ended: bool


class PlaylistUnsupported(ValueError):
    """A kind of playlist that cannot be recorded; the text tells which."""


def parse(text: str, url: str) -> Playlist:
    """Return the playlist at *url*. Raises PlaylistUnsupported, also for an invalid play time."""
    if not text.lstrip("\ufeff").startswith("#EXTM3U") or "#EXT-X-STREAM-INF" in text:
        raise PlaylistUnsupported("this is no media playlist")
    number, target, seconds, init_url = 0, _DEFAULT_TARGET_SECONDS, _MIN_SEGMENT_SECONDS, ""
    time: float | None = None
    segments: list[Segment] = []
    for line in text.splitlines():
        tag, _, value = line.strip().partition(":")
        if tag == "#EXT-X-MEDIA-SEQUENCE":
            number = _parse_number(value)
        elif tag == "#EXT-X-TARGETDURATION":
            stated = site_limits.number(value, site_limits.MAX_SECONDS)
            target = _DEFAULT_TARGET_SECONDS if stated is None else stated
        elif tag == "#EXTINF":
            seconds = _parse_play_time(value.partition(",")[0])
        elif tag == "#EXT-X-PROGRAM-DATE-TIME":
            time = _parse_time(value)
        elif tag == "#EXT-X-MAP" and (match := _URI.search(value)):
            init_url = urljoin(url, match[1])
        elif tag == "#EXT-X-BYTERANGE" or (tag == "#EXT-X-KEY" and _key_method(value) != "NONE"):
            raise PlaylistUnsupported("segments that are encrypted or byte ranges cannot be recorded")
        elif line.strip() and not line.startswith("#"):
            segments.append(Segment(number, urljoin(url, line.strip()), seconds, init_url, time))
            number += 1
            time = None if time is None else time + seconds
    target = min(max(target, _MIN_TARGET_SECONDS), _MAX_TARGET_SECONDS)
    return Playlist(tuple(segments[-_MAX_SEGMENTS:]), target, "#EXT-X-ENDLIST" in text)


def _parse_number(value: str) -> int:
    number = site_limits.whole(value, site_limits.MAX_COUNT)
    if number is None:
        raise PlaylistUnsupported("the media sequence number is invalid")
    return number


def _parse_play_time(value: str) -> float:
    """Return the seconds of a segment. Raises PlaylistUnsupported for NaN, infinity and negative numbers."""
    seconds = site_limits.number(value, _MAX_SEGMENT_SECONDS)
    if seconds is None:
        raise PlaylistUnsupported("the play time of a segment is invalid")
    return max(seconds, _MIN_SEGMENT_SECONDS)


def _parse_time(value: str) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 date and time; None if it is none."""
    try:
        time = datetime.fromisoformat(value.strip()[:40])
        return time.timestamp() if time.tzinfo else time.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def _key_method(value: str) -> str:
    match = _METHOD.search(value)
    return match[1] if match else "NONE"
