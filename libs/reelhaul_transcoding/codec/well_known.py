"""Texts: how scalars and the well-known types that are written as strings look in JSON and in a query.

All readers raise ValueError with a text that may be shown to the caller.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_LONGEST_DURATION = 315_576_000_000
_STANDARD = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URL_SAFE = re.compile(r"[A-Za-z0-9\-_]*={0,2}")
_FLOAT_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_FLOAT = struct.Struct("<f")
# Beyond it a double's neighbours are more than one apart, and orjson takes 64 bits at most.
_EXACT, _EXACT_SINGLE = 2.0**53, 2.0**24


def timestamp_of(text: str) -> tuple[int, int]:
    """Seconds since the epoch and nanoseconds of an RFC 3339 text, with Z or an offset."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ValueError("must be a time as 2026-01-31T10:20:30Z")
    whole, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    except ValueError as error:
        raise ValueError("is no such time") from error
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        raise ValueError("must be in the years 1 to 9999")
    return seconds, _nanos(fraction)


def timestamp_text(seconds: int, nanos: int) -> str:
    """RFC 3339 in UTC, with 0, 3, 6 or 9 digits of a second. ValueError out of range."""
    if not 0 <= nanos < 1_000_000_000:
        raise ValueError("nanoseconds of a timestamp out of range")
    return f"{_second_text(seconds)}{_fraction(nanos)}Z"


def duration_of(text: str) -> tuple[int, int]:
    """Seconds and nanoseconds, of one sign, of a text as ``1.5s``."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("must be seconds as 1.5s")
    sign = -1 if found[1] else 1
    seconds, nanos = int(found[2]), _nanos(found[3])
    if seconds > _LONGEST_DURATION:
        raise ValueError("must be at most 10000 years")
    return sign * seconds, sign * nanos


def duration_text(seconds: int, nanos: int) -> str:
    """As ``1.500s``, with 0, 3, 6 or 9 digits of a second."""
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"


def mask_of(text: str, *, snake: bool) -> list[str]:
    """The paths of a FieldMask, in snake_case; lower_snake is taken too where *snake*."""
    paths = text.split(",") if text else []
    for path in paths:
        if not path or ("_" in path and not snake):
            raise ValueError("must be paths in lowerCamelCase with commas between")
    return [re.sub(r"[A-Z]", lambda upper: "_" + upper[0].lower(), path) for path in paths]


def mask_text(paths: list[str]) -> str:
    """The paths in lowerCamelCase with commas between."""
    return ",".join(re.sub(r"_([a-z])", lambda part: part[1].upper(), path) for path in paths)


def bytes_of(text: str) -> bytes:
    """Bytes of base64 in either alphabet, padded or not."""
    if _STANDARD.fullmatch(text) is None:
        if _URL_SAFE.fullmatch(text) is None:
            raise ValueError("must be base64")
        text = text.replace("-", "+").replace("_", "/")
    bare = text.rstrip("=")
    if len(bare) % 4 == 1 or (len(text) > len(bare) and len(text) % 4):
        raise ValueError("must be base64 of whole bytes")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise ValueError("must be base64") from error


def bytes_text(content: bytes) -> str:
    """Base64 in the standard alphabet, padded."""
    return binascii.b2a_base64(content, newline=False).decode()


def double_of(text: str) -> float:
    """A double; NaN, Infinity and -Infinity by these names only."""
    if text in _FLOAT_NAMES:
        return _FLOAT_NAMES[text]
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("must be a number")
    return finite(float(text))


def finite(value: float) -> float:
    """*value*, or ValueError where it left the range of a double."""
    if math.isinf(value):
        raise ValueError("is out of range")
    return value


def single(value: float) -> float:
    """*value*, or ValueError where a float of 32 bits cannot hold it."""
    try:
        _FLOAT.pack(value)
    except OverflowError as error:
        raise ValueError("is out of range") from error
    return value


def double_value(value: float) -> float | int | str:
    """What stands for a double in JSON: whole numbers without a fraction."""
    if value != value or value in (math.inf, -math.inf):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if -_EXACT < value < _EXACT and value.is_integer() and (value or math.copysign(1, value) > 0):
        return int(value)
    return value


def single_value(value: float) -> float | int | str:
    """What stands for a float in JSON: the shortest text that reads back as the same 32 bits."""
    if not math.isfinite(value) or (value.is_integer() and abs(value) < _EXACT_SINGLE):
        return double_value(value)
    for digits in (7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if _reads_back(short, value):
            return double_value(short)
    return double_value(value)


def _reads_back(short: float, value: float) -> bool:
    try:
        return bool(_FLOAT.unpack(_FLOAT.pack(short))[0] == value)
    except OverflowError:
        # Rounded up beyond the largest float.
        return False


def _nanos(fraction: str | None) -> int:
    return int(fraction.ljust(9, "0")) if fraction else 0


def _fraction(nanos: int) -> str:
    if not nanos:
        return ""
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03}"
    return f".{nanos // 1_000:06}" if nanos % 1_000 == 0 else f".{nanos:09}"


@lru_cache(maxsize=4096)
def _second_text(seconds: int) -> str:
    # Events of a job share seconds: most timestamps of an answer were written a moment ago.
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        raise ValueError("seconds of a timestamp out of range")
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
