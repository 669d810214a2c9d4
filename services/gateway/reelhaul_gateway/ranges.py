"""Ranges: parse the range and conditional headers of RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(rb"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAGS = re.compile(rb'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of a file, or all of it."""

    start: int
    length: int
    #: Whether the client asked for a range: the status is 206, not 200.
    partial: bool


class RangeNotSatisfiable(Exception):
    """The range starts after the end of the file: 416."""


def parse_range(headers: Mapping[bytes, bytes], size: int, etag: bytes) -> ByteRange:
    """Return the range of a file of *size* bytes that a request asks for.

    Several ranges, units other than bytes, and invalid values select the whole file, as the
    RFC allows; so does an If-Range other than *etag*. Raises RangeNotSatisfiable.
    """
    whole = ByteRange(0, size, partial=False)
    value = headers.get(b"range")
    if value is None or headers.get(b"if-range", etag) != etag:
        return whole
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[1] == match[2] == b"":
        return whole
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise RangeNotSatisfiable
        return ByteRange(size - length, length, partial=True)
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return whole
    if start >= size:
        raise RangeNotSatisfiable
    return ByteRange(start, min(last, size - 1) - start + 1, partial=True)


def matches_etag(header: bytes | None, etag: bytes) -> bool:
    """Return whether the If-Match or If-None-Match *header* lists *etag*."""
    return header is not None and (header.strip() == b"*" or etag in _ETAGS.findall(header))
