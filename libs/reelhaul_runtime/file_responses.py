"""File responses: HTTP responses with a file: ranges, conditional requests and safe file names.

The gateway and the HTTP port of storage both serve artifacts; a client gets the same from both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

Header = tuple[bytes, bytes]

_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;\s*[\w-]+=[\w.+-]+)*", re.ASCII)
_DEFAULT_MEDIA_TYPE = "application/octet-stream"
# Types that a browser shows without running anything.
_INLINE_TYPE = re.compile(
    r"(?:video|audio)/[\w.+-]+|image/(?!svg)[\w.+-]+|text/(?:plain|vtt)|application/json"
)
_UNSAFE_IN_FILE_NAME = re.compile(r'[^\x20-\x7e]|["\\%]')
_RANGE = re.compile(rb"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAGS = re.compile(rb'(W/)?("[^"]*")')
# A file that is shown in a browser loads nothing else and runs nothing.
_CONTENT_SECURITY_POLICY = b"default-src 'none'; media-src 'self'; img-src 'self'; sandbox"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The *length* bytes of a file from *start*."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class FileResponse:
    """Status and headers of a response; ``content`` is the part of the file that is its body, or None.

    412 (If-Match) and 416 have no body here: the server describes the error.
    """

    status: int
    headers: list[Header]
    content: ByteRange | None = None


def build_response(
    method: str, request_headers: Mapping[bytes, bytes], headers: list[Header], size: int, etag: bytes
) -> FileResponse:
    """Return the response to a GET or HEAD for a file of *size* bytes with the strong, quoted *etag*.

    Names of *request_headers* are in lower case. *headers* are those of a 200 other than Content-Length.
    """
    if_match = request_headers.get(b"if-match")
    if if_match is not None and not _lists_etag(if_match, etag, weak=False):
        return FileResponse(412, headers)
    if _lists_etag(request_headers.get(b"if-none-match"), etag, weak=True):
        return FileResponse(304, headers)
    if method == "HEAD":
        return FileResponse(200, [*headers, _content_length(size)])
    try:
        byte_range = _parse_range(request_headers, size, etag)
    except _RangeNotSatisfiable:
        return FileResponse(416, [(b"content-range", f"bytes */{size}".encode())])
    if byte_range is None:
        return FileResponse(200, [*headers, _content_length(size)], ByteRange(0, size))
    last = byte_range.start + byte_range.length - 1
    content_range = (b"content-range", f"bytes {byte_range.start}-{last}/{size}".encode())
    return FileResponse(206, [*headers, _content_length(byte_range.length), content_range], byte_range)


def file_headers(file_name: str, media_type: str, etag: bytes, *, inline: bool) -> list[Header]:
    """Return the headers of a response with a file, except Content-Length.

    With *inline* a browser may show the file in place of saving it, if its type is safe.
    """
    media_type = choose_media_type(media_type)
    return [
        (b"content-type", media_type.encode()),
        (b"content-disposition", content_disposition(file_name, media_type, inline=inline).encode()),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag),
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", _CONTENT_SECURITY_POLICY),
    ]


def choose_media_type(media_type: str) -> str:
    """Return *media_type* if it is valid in a header, else that of unknown bytes."""
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else _DEFAULT_MEDIA_TYPE


def content_disposition(file_name: str, media_type: str, *, inline: bool) -> str:
    """Return Content-Disposition with *file_name* for old and new clients. RFC 6266.

    Types that a browser could run are never inline.
    """
    kind = "inline" if inline and _INLINE_TYPE.fullmatch(media_type) else "attachment"
    ascii_name = _UNSAFE_IN_FILE_NAME.sub("_", file_name)
    encoded = quote(file_name, safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{ascii_name}\"; filename*=UTF-8''{encoded}"


class _RangeNotSatisfiable(Exception):
    """The range starts after the end of the file: 416."""


def _parse_range(headers: Mapping[bytes, bytes], size: int, etag: bytes) -> ByteRange | None:
    """Return the range of a file of *size* bytes that a request asks for; None for the whole file.

    Several ranges, units other than bytes, and invalid values select the whole file, as
    RFC 9110 section 14 allows; so does an If-Range other than *etag*. Raises _RangeNotSatisfiable.
    """
    value = headers.get(b"range")
    if value is None or headers.get(b"if-range", etag) != etag:
        return None
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[1] == match[2] == b"":
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise _RangeNotSatisfiable
        return ByteRange(size - length, length)
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return None
    if start >= size:
        raise _RangeNotSatisfiable
    return ByteRange(start, min(last, size - 1) - start + 1)


def _lists_etag(header: bytes | None, etag: bytes, *, weak: bool) -> bool:
    """Return whether the If-Match or If-None-Match *header* lists *etag*, or any.

    The comparison is weak for If-None-Match and strong for If-Match, where a weak tag matches nothing
    (RFC 9110 section 13.1).
    """
    if header is None:
        return False
    return header.strip() == b"*" or any(
        listed == etag and (weak or not prefix) for prefix, listed in _ETAGS.findall(header)
    )


def _content_length(length: int) -> Header:
    return b"content-length", str(length).encode()
