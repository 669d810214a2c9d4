"""Ranges: what HTTP's conditional and range headers ask of a file. RFC 9110, parts 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

_RANGE = re.compile(rb"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAGS = re.compile(rb'(?:W/)?("[^"]*")')
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\%]')
# Kinds that a browser shows without running anything.
_SHOWN = re.compile(r"(?:video|audio)/[\w.+-]+|image/(?!svg)[\w.+-]+|text/(?:plain|vtt)|application/json")


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a file, or all of it."""

    start: int
    length: int
    #: Whether it is less than what was there to give: 206.
    partial: bool


class Unsatisfiable(Exception):
    """The range begins past the end: 416."""


def asked(headers: Mapping[bytes, bytes], size: int, etag: bytes) -> Slice:
    """The part of a file of *size* bytes that is asked for.

    Several ranges at once, units other than bytes and what does not parse are answered
    with the whole, as the RFC allows; so is a range whose If-Range is not *etag*.
    """
    whole = Slice(0, size, partial=False)
    given = headers.get(b"range")
    if given is None or headers.get(b"if-range", etag) != etag:
        return whole
    found = _RANGE.fullmatch(given.strip())
    if found is None or found[1] == found[2] == b"":
        return whole
    if not found[1]:
        length = min(int(found[2]), size)
        if not length:
            raise Unsatisfiable
        return Slice(size - length, length, partial=True)
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return whole
    if start >= size:
        raise Unsatisfiable
    return Slice(start, min(last, size - 1) - start + 1, partial=True)


def names(header: bytes | None, etag: bytes) -> bool:
    """Whether If-Match or If-None-Match, *header*, names *etag*."""
    return header is not None and (header.strip() == b"*" or etag in _ETAGS.findall(header))


def disposition(file_name: str, media_type: str, *, inline: bool) -> bytes:
    """Content-Disposition with *file_name* for all clients. RFC 6266.

    What a browser could run is never shown inline.
    """
    kind = "inline" if inline and _SHOWN.fullmatch(media_type) else "attachment"
    plain = _UNSAFE.sub("_", file_name)
    encoded = quote(file_name, safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}".encode()
