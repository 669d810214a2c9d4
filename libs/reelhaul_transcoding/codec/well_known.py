"""String and number forms of scalars and well-known types in JSON and in query parameters.

All parsers raise ValueError with a message that may be shown to the caller.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d{1,9}))?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799
_MAX_DURATION_SECONDS = 315_576_000_000
_STANDARD_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URL_SAFE_BASE64 = re.compile(r"[A-Za-z0-9\-_]*={0,2}")
_FLOAT_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
# More than any message has fields, but few enough to bound the time.
_MAX_MASK_PATHS = 1000
_FLOAT32 = struct.Struct("<f")
# Above these limits adjacent values are more than one apart; orjson's integers have at most 64 bits.
_MAX_EXACT_DOUBLE, _MAX_EXACT_FLOAT32 = 2.0**53, 2.0**24


def parse_timestamp(text: str) -> tuple[int, int]:
    """Return seconds since the epoch and nanoseconds of an RFC 3339 time with Z or an offset."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("must be an RFC 3339 time, e.g. 2026-01-31T10:20:30Z")
    try:
        elapsed = datetime.fromisoformat(text) - _EPOCH
    except ValueError as error:
        raise ValueError("is not a valid time") from error
    seconds = elapsed.days * 86_400 + elapsed.seconds
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise ValueError("must be in the years 1 to 9999")
    return seconds, _parse_nanos(match[1])


def format_timestamp(seconds: int, nanos: int) -> str:
    """Return RFC 3339 in UTC with 0, 3, 6 or 9 decimals. Raises ValueError if out of range."""
    start = _format_seconds(seconds)
    if not nanos:
        return start + "Z"
    if not 0 < nanos < 1_000_000_000:
        raise ValueError("nanoseconds of a timestamp are out of range")
    # Most have microseconds.
    if nanos % 1_000_000 and not nanos % 1_000:
        return f"{start}.{nanos // 1_000:06}Z"
    return f"{start}{_format_nanos(nanos)}Z"


def parse_duration(text: str) -> tuple[int, int]:
    """Return seconds and nanoseconds, with the same sign, of a duration like ``1.5s``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be a duration in seconds, e.g. 1.5s")
    sign = -1 if match[1] else 1
    seconds, nanos = int(match[2]), _parse_nanos(match[3])
    if seconds > _MAX_DURATION_SECONDS:
        raise ValueError("must be at most 10000 years")
    return sign * seconds, sign * nanos


def format_duration(seconds: int, nanos: int) -> str:
    """Return a duration like ``1.500s`` with 0, 3, 6 or 9 decimals."""
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_format_nanos(abs(nanos))}s"


def parse_field_mask(text: str, *, allow_snake_case: bool) -> list[str]:
    """Return the paths of a FieldMask in snake_case; the text is in lowerCamelCase."""
    paths = text.split(",", _MAX_MASK_PATHS) if text else []
    if len(paths) > _MAX_MASK_PATHS:
        raise ValueError(f"must have at most {_MAX_MASK_PATHS} paths")
    for path in paths:
        if not path or ("_" in path and not allow_snake_case):
            raise ValueError("must be comma-separated paths in lowerCamelCase")
    return [re.sub(r"[A-Z]", lambda upper: "_" + upper[0].lower(), path) for path in paths]


def format_field_mask(paths: list[str]) -> str:
    """Return *paths* in lowerCamelCase, comma-separated."""
    return ",".join(re.sub(r"_([a-z])", lambda match: match[1].upper(), path) for path in paths)


def parse_base64(text: str) -> bytes:
    """Return the bytes of base64 in either alphabet, padded or not."""
    if _STANDARD_BASE64.fullmatch(text) is None:
        if _URL_SAFE_BASE64.fullmatch(text) is None:
            raise ValueError("must be base64")
        text = text.replace("-", "+").replace("_", "/")
    unpadded = text.rstrip("=")
    if len(unpadded) % 4 == 1 or (len(text) > len(unpadded) and len(text) % 4):
        raise ValueError("must be base64 of a whole number of bytes")
    try:
        return base64.b64decode(unpadded + "=" * (-len(unpadded) % 4))
    except binascii.Error as error:
        raise ValueError("must be base64") from error


def format_base64(content: bytes) -> str:
    """Return base64 in the standard alphabet, padded."""
    return binascii.b2a_base64(content, newline=False).decode()


def parse_double(text: str) -> float:
    """Return a double; the only names accepted are NaN, Infinity and -Infinity."""
    if text in _FLOAT_NAMES:
        return _FLOAT_NAMES[text]
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("must be a number")
    return check_finite(float(text))


def check_finite(value: float) -> float:
    """Return *value*; raise ValueError if it overflowed the range of a double."""
    if math.isinf(value):
        raise ValueError("is out of range")
    return value


def check_float32(value: float) -> float:
    """Return *value*; raise ValueError if it exceeds the range of a 32-bit float."""
    try:
        _FLOAT32.pack(value)
    except OverflowError as error:
        raise ValueError("is out of range") from error
    return value


def double_to_json(value: float) -> float | int | str:
    """Return the JSON form of a double: whole numbers without a fraction."""
    if value != value or value in (math.inf, -math.inf):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if (
        -_MAX_EXACT_DOUBLE < value < _MAX_EXACT_DOUBLE
        and value.is_integer()
        and (value or math.copysign(1, value) > 0)
    ):
        return int(value)
    return value


def float32_to_json(value: float) -> float | int | str:
    """Return the JSON form of a 32-bit float: the shortest number that reads back as the same float."""
    if not math.isfinite(value) or (value.is_integer() and abs(value) < _MAX_EXACT_FLOAT32):
        return double_to_json(value)
    return _shorten_float32(value)


@lru_cache(maxsize=1024)
def _shorten_float32(value: float) -> float | int | str:
    # Cached because the frame rates of videos are few.
    # Subnormal floats need six digits only.
    for digits in (6, 7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if _is_same_float32(short, value):
            return double_to_json(short)
    return double_to_json(value)


def _is_same_float32(short: float, value: float) -> bool:
    try:
        return bool(_FLOAT32.unpack(_FLOAT32.pack(short))[0] == value)
    except OverflowError:
        # Rounded up beyond the largest float.
        return False


def _parse_nanos(fraction: str | None) -> int:
    return int(fraction) * 10 ** (9 - len(fraction)) if fraction else 0


def _format_nanos(nanos: int) -> str:
    if not nanos:
        return ""
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03}"
    return f".{nanos // 1_000:06}" if nanos % 1_000 == 0 else f".{nanos:09}"


@lru_cache(maxsize=4096)
def _format_seconds(seconds: int) -> str:
    # Cached because most timestamps of a response lie in the same few seconds.
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise ValueError("seconds of a timestamp are out of range")
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
