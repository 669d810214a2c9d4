"""Values of header fields that sites send: each is parsed to a value, or to None or "" if it is invalid.

Many are read while another failure is handled, so nothing here raises, whatever the value is.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

# Not `isdigit` and `int`: these accept other digits than 0 to 9, or refuse those that the other accepts.
_DECIMAL = re.compile(r"[0-9]{1,18}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes\s{1,8}([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)
_VALIDATOR = re.compile(r"[ -~\x80-\xff]{1,1024}", re.ASCII)

# The longest form of an HTTP date (RFC 9110) has 33 characters.
_MAX_DATE_LENGTH = 64
_MAX_RETRY_AFTER = timedelta(days=1)


class ContentRange(NamedTuple):
    """A Content-Range: the first and the last byte of a part, and the bytes of the whole if known."""

    first: int
    last: int
    total: int | None


def parse_decimal(value: object) -> int | None:
    """Return the number that *value* (Content-Length, Age) is, below 10**18; None if it is none."""
    text = str(value).strip()
    return int(text) if _DECIMAL.fullmatch(text) else None


def parse_content_range(value: object) -> ContentRange | None:
    """Return the Content-Range in *value*; None if it is not one of bytes."""
    match = _CONTENT_RANGE.fullmatch(str(value).strip())
    if match is None:
        return None
    return ContentRange(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def parse_date(value: object) -> datetime | None:
    """Return the HTTP date in *value*, with its time zone; None if it is none."""
    text = str(value)
    try:
        date = parsedate_to_datetime(text) if len(text) <= _MAX_DATE_LENGTH else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return date if date is not None and date.tzinfo is not None else None


def parse_retry_after(value: object, now: datetime) -> timedelta | None:
    """Return the delay in a Retry-After (RFC 9110), from 0 to a day; None if there is none."""
    seconds = parse_decimal(value)
    if seconds is not None:
        return timedelta(seconds=min(seconds, _MAX_RETRY_AFTER.total_seconds()))
    date = parse_date(value)
    return None if date is None else min(max(date - now, timedelta()), _MAX_RETRY_AFTER)


def parse_validator(value: object) -> str:
    """Return the ETag or Last-Modified in *value*, which If-Range may repeat; empty if it may not."""
    text = str(value).strip()
    return text if _VALIDATOR.fullmatch(text) else ""
