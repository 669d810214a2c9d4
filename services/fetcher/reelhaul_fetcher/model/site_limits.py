"""Limits of what sites say about media, and the conversion of their values within these limits.

A site chooses every value that an extractor reads: nothing here raises, whatever the value is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from reelhaul.normalization import normalize
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning

_T = TypeVar("_T")

# Characters. What is longer in practice is generated or hostile.
MAX_TITLE = 500
MAX_NAME = 200
MAX_DESCRIPTION = 5000
MAX_ID = 1000
#: Of languages, codecs, containers and protocols.
MAX_CODE = 64
#: Signed URLs have up to 4,000.
MAX_URL = 8192

MAX_FORMATS = 1000
#: YouTube offers each of its tracks in 150 machine translations.
MAX_SUBTITLE_TRACKS = 5000
MAX_CHAPTERS = 1000
#: Of all metadata of a video or list: jobs and the gateway accept messages of 4 MiB.
MAX_MEDIA_BYTES = 1 << 20
#: Files of one job: media, chapters, subtitles in each format. jobs refuses more.
MAX_PRODUCTS = 500
#: Of the entries of a list that one message takes.
MAX_ENTRIES_BYTES = 2 << 20

# A larger number is wrong, and counts as unknown.
MAX_SECONDS = 1e9
MAX_BYTES = 1 << 50
MAX_COUNT = 1 << 53
MAX_INT32 = (1 << 31) - 1
# What a protobuf Timestamp holds: the years 1 to 9999, in seconds since 1970.
MIN_TIME, MAX_TIME = -62_135_596_800, 253_402_300_799

_LISTS = ("formats", "subtitle_tracks", "chapters", "entries")
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def number(value: object, maximum: float) -> float | None:
    """Return *value* as a number from 0 to *maximum*; None if it is none, as NaN and infinity are."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return result if 0 <= result <= maximum else None


def whole(value: object, maximum: int) -> int | None:
    """Return *value* as a whole number from 0 to *maximum*, rounded down; None if it is none."""
    try:
        result = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return result if 0 <= result <= maximum else None


def timestamp(value: object) -> int | None:
    """Return *value* as seconds since 1970 that a Timestamp holds; None if it is none."""
    if isinstance(value, int | float) and MIN_TIME <= value <= MAX_TIME:
        return int(value)
    return None


def clean(value: object) -> str:
    """Return *value* as text that protobuf and files accept: without lone surrogates; empty for None."""
    if value is None:
        return ""
    try:
        return str(value).encode("utf-8", "replace").decode()
    except (ValueError, RecursionError):
        # Numbers of thousands of digits, and deeply nested lists, have no text.
        return ""


def shorten(value: object, limit: int) -> tuple[str, bool]:
    """Return *value* as NFC text of at most *limit* characters, and whether it is cut: then it ends in …."""
    text = value if isinstance(value, str) else clean(value)
    # Cut before as well: the work is that of the limit. Normalization may join up to four characters.
    result = normalize(clean(text[: 4 * limit]))
    if len(text) <= 4 * limit and len(result) <= limit:
        return result, False
    return result[: limit - 1] + _ELLIPSIS, True


class SiteValues:
    """Converts the values of one site's answer, and remembers what it cut."""

    def __init__(self) -> None:
        # Names of what was cut, in order.
        self._cut: dict[str, None] = {}

    def text(self, name: str, value: object, limit: int) -> str:
        """Return *value*, called *name* in the warning, as text of at most *limit* characters."""
        text, is_cut = shorten(value, limit)
        if is_cut:
            self.add_cut(name)
        return text

    def reference(self, name: str, value: object, limit: int) -> str:
        """Return *value* as text, empty if it exceeds *limit*: the beginning of a URL is another URL."""
        text, is_cut = shorten(value, limit)
        if not is_cut:
            return text
        self.add_cut(name)
        return ""

    def first(self, name: str, items: Sequence[_T], limit: int) -> Sequence[_T]:
        """Return the first *limit* of *items*."""
        if len(items) > limit:
            self.add_cut(name)
        return items[:limit]

    def last(self, name: str, items: Sequence[_T], limit: int) -> Sequence[_T]:
        """Return the last *limit* of *items*."""
        if len(items) > limit:
            self.add_cut(name)
        return items[-limit:]

    def add_cut(self, name: str) -> None:
        """Record that *name* was cut."""
        self._cut[name] = None

    def limit_size(self, media: MediaInfo) -> None:
        """Halve the largest lists of *media* until it has at most MAX_MEDIA_BYTES."""
        while media.ByteSize() > MAX_MEDIA_BYTES:
            sizes = {name: sum(item.ByteSize() for item in getattr(media, name)) for name in _LISTS}
            largest = max(_LISTS, key=sizes.__getitem__)
            items: Any = getattr(media, largest)
            half = len(items) // 2
            # Formats are sorted from worst to best.
            del items[slice(None, half + 1) if largest == "formats" else slice(half, None)]
            self.add_cut(largest.replace("_", " "))

    @property
    def warnings(self) -> list[MediaWarning]:
        """One warning that names what was cut; none if nothing was."""
        if not self._cut:
            return []
        text = f"the site's metadata is too large and was cut: {', '.join(self._cut)}"
        return [MediaWarning(reason=MediaWarning.METADATA_CUT, message=text)]
