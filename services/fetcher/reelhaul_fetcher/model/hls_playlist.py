"""HLS media playlists (RFC 8216): segments with their initialization sections, keys and discontinuities."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urljoin

from reelhaul_fetcher.model import site_limits

#: The first byte of a part of a file, and the byte after its last.
Bounds = tuple[int, int]

_ATTRIBUTE = re.compile(r'([A-Z0-9-]{1,64})=("[^"]*"|[^",]*)')
# Of a live stream.
_MAX_SEGMENTS = 50_000
_DEFAULT_TARGET_SECONDS = 6.0
_MIN_TARGET_SECONDS, _MAX_TARGET_SECONDS = 0.5, 60.0
# Types of the first box of an ISO BMFF segment.
_BOX_TYPES = frozenset(
    (b"styp", b"moof", b"sidx", b"ssix", b"emsg", b"prft", b"ftyp", b"moov", b"mdat", b"free")
)
# A shorter segment counts as this long: recordings are limited by play time.
_MIN_SEGMENT_SECONDS, _MAX_SEGMENT_SECONDS = 0.1, 3600.0
# Tags of two video platforms before the segments of an advertisement, and before those of the media.
_ADVERTISEMENT = re.compile(r"#ANVATO-SEGMENT-INFO.*type=ad|#UPLYNK-SEGMENT.*,ad$")
_NO_ADVERTISEMENT = re.compile(r"#ANVATO-SEGMENT-INFO.*type=master|#UPLYNK-SEGMENT.*,segment$")


@dataclass(frozen=True, slots=True)
class Key:
    """The attributes of EXT-X-KEY; *iv* in hex, empty if it is the media sequence number."""

    method: str
    url: str = ""
    iv: str = ""


@dataclass(frozen=True, slots=True)
class InitSection:
    """The initialization section of segments (EXT-X-MAP)."""

    url: str
    bounds: Bounds | None = None
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: its media sequence number, URL, play time in seconds, initialization section and key."""

    number: int
    url: str
    seconds: float
    init: InitSection | None = None
    bounds: Bounds | None = None
    key: Key | None = None
    #: Number of discontinuities before it: the clock may restart after each.
    discontinuities: int = 0
    is_advertisement: bool = False
    #: The server has no such segment (EXT-X-GAP).
    is_gap: bool = False
    #: Whether the play time is rounded to whole seconds.
    is_rounded: bool = False
    #: EXT-X-PROGRAM-DATE-TIME in seconds since 1970, of this segment or counted from an earlier one; None:
    #: unknown.
    time: float | None = None

    @property
    def init_url(self) -> str:
        """The URL of the initialization section; empty if there is none."""
        return self.init.url if self.init else ""


@dataclass(frozen=True, slots=True)
class Playlist:
    """The segments available now, and the target duration."""

    segments: tuple[Segment, ...]
    target_seconds: float
    ended: bool
    #: Whether all play times are numbers.
    timed: bool = True
    #: Whether it never changes (EXT-X-PLAYLIST-TYPE:VOD), also if its end is not marked.
    fixed: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether no segments will be added."""
        return self.ended or self.fixed


class PlaylistUnsupported(ValueError):
    """The playlist is of a kind that cannot be read; the text names it."""


def parse(text: str, url: str) -> Playlist:
    """Return the playlist at *url*. Raises PlaylistUnsupported, also for an invalid byte range or URL."""
    if not text.lstrip("\ufeff").startswith("#EXTM3U") or "#EXT-X-STREAM-INF" in text:
        raise PlaylistUnsupported("this is no media playlist")
    parser = _Parser(url)
    for line in text.splitlines():
        parser.read(line.strip())
    target = min(max(parser.target, _MIN_TARGET_SECONDS), _MAX_TARGET_SECONDS)
    return Playlist(tuple(parser.segments), target, parser.ended, fixed=parser.fixed, timed=parser.timed)


def parse_live(text: str, url: str) -> Playlist:
    """Return the playlist of a live stream at *url*. Raises PlaylistUnsupported if it cannot be recorded."""
    playlist = parse(text, url)
    if not playlist.timed:
        # Recordings are limited by play time.
        raise PlaylistUnsupported("the play time of a segment is invalid")
    if any(segment.key or segment.bounds for segment in playlist.segments):
        raise PlaylistUnsupported("segments that are encrypted or byte ranges cannot be recorded")
    return replace(playlist, segments=playlist.segments[-_MAX_SEGMENTS:])


def segment_kind(content: bytes) -> str:
    """Return the container of the segment in *content*: "ts", "mp4" or "webm"; empty for others."""
    if content[:1] == b"\x47" and content[188:189] in (b"\x47", b""):
        return "ts"
    if content[4:8] in _BOX_TYPES:
        return "mp4"
    return "webm" if content[:4] in (b"\x1f\x43\xb6\x75", b"\x1a\x45\xdf\xa3") else ""


class _Parser:
    """Reads a playlist line by line."""

    def __init__(self, url: str) -> None:
        self.segments: list[Segment] = []
        self.target, self.ended, self.fixed, self.timed = _DEFAULT_TARGET_SECONDS, False, False, True
        self._url, self._number, self._discontinuities = url, 0, 0
        self._init: InitSection | None = None
        self._key: Key | None = None
        self._is_advertisement = False
        self._time: float | None = None
        self._last_url, self._last_stop = "", 0
        self._begin_segment()

    def read(self, line: str) -> None:
        """Parse the next line."""
        tag, _, value = line.partition(":")
        if line and not line.startswith("#"):
            self._add_segment(self._join(line))
        elif tag == "#EXT-X-MEDIA-SEQUENCE":
            self._number = _parse_number(value, "media sequence number")
        elif tag == "#EXT-X-TARGETDURATION":
            target = site_limits.number(value, site_limits.MAX_SECONDS)
            self.target = _DEFAULT_TARGET_SECONDS if target is None else target
        elif tag == "#EXTINF":
            stated = value.partition(",")[0]
            seconds = site_limits.number(stated, _MAX_SEGMENT_SECONDS)
            self.timed = self.timed and seconds is not None
            self._seconds, self._is_rounded = max(seconds or 0.0, _MIN_SEGMENT_SECONDS), "." not in stated
        elif tag == "#EXT-X-PROGRAM-DATE-TIME":
            self._time = _parse_time(value)
        elif tag == "#EXT-X-BYTERANGE":
            self._range = value
        elif tag == "#EXT-X-MAP":
            self._init = self._parse_map(value)
        elif tag == "#EXT-X-KEY":
            self._key = self._parse_key(value)
        elif tag == "#EXT-X-DISCONTINUITY":
            self._discontinuities += 1
        elif tag == "#EXT-X-GAP":
            self._is_gap = True
        elif tag == "#EXT-X-PLAYLIST-TYPE":
            self.fixed = value.strip() == "VOD"
        elif tag == "#EXT-X-ENDLIST":
            self.ended = True
        elif _ADVERTISEMENT.match(line):
            self._is_advertisement = True
        elif _NO_ADVERTISEMENT.match(line):
            self._is_advertisement = False

    def _begin_segment(self) -> None:
        self._seconds, self._is_rounded = _MIN_SEGMENT_SECONDS, True
        self._range, self._is_gap = "", False

    def _add_segment(self, url: str) -> None:
        bounds = None
        if self._range:
            # A range without an offset follows the previous one of the same file.
            bounds = _parse_range(self._range, self._last_stop if url == self._last_url else 0)
        self.segments.append(
            Segment(
                self._number,
                url,
                self._seconds,
                self._init,
                bounds,
                self._key,
                self._discontinuities,
                self._is_advertisement,
                self._is_gap,
                self._is_rounded,
                self._time,
            )
        )
        self._time = None if self._time is None else self._time + self._seconds
        self._last_url, self._last_stop = url, bounds[1] if bounds else 0
        self._number += 1
        self._begin_segment()

    def _join(self, reference: str) -> str:
        try:
            return urljoin(self._url, reference)
        except ValueError:
            raise PlaylistUnsupported("the URL of a segment is invalid") from None

    def _parse_map(self, value: str) -> InitSection | None:
        attributes = _parse_attributes(value)
        if not attributes.get("URI"):
            return None
        bounds = _parse_range(attributes["BYTERANGE"], 0) if attributes.get("BYTERANGE") else None
        return InitSection(self._join(attributes["URI"]), bounds, self._key)

    def _parse_key(self, value: str) -> Key | None:
        attributes = _parse_attributes(value)
        method, uri, iv = (
            attributes.get("METHOD", "NONE"),
            attributes.get("URI", ""),
            attributes.get("IV", ""),
        )
        if method == "NONE":
            return None
        if iv and not re.fullmatch("0[xX][0-9a-fA-F]{1,32}", iv):
            raise PlaylistUnsupported("the initialization vector of a segment is invalid")
        return Key(method, self._join(uri) if uri else "", iv[2:].lower().zfill(32) if iv else "")


def _parse_attributes(text: str) -> dict[str, str]:
    """Return the attributes in *text* (RFC 8216, 4.2) without quotes."""
    return {match[1]: match[2].strip('"') for match in _ATTRIBUTE.finditer(text)}


def _parse_range(text: str, default_start: int) -> Bounds:
    length, _, start = text.strip().partition("@")
    first = _parse_number(start, "byte range") if start else default_start
    return first, first + _parse_number(length, "byte range")


def _parse_number(value: str, name: str) -> int:
    number = site_limits.whole(value, site_limits.MAX_COUNT)
    if number is None:
        raise PlaylistUnsupported(f"the {name} is invalid")
    return number


def _parse_time(value: str) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 date and time; None if it is none."""
    try:
        time = datetime.fromisoformat(value.strip()[:40])
        return time.timestamp() if time.tzinfo else time.replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None
