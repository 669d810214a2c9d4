"""Serves content of a known size over HTTP: ranges and conditional requests. RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors
from reelhaul_transcoding.http.asgi import Header, Scope, Send, send_response
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import UpstreamError

_RANGE = re.compile(rb"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAGS = re.compile(rb'(W/)?("[^"]*")')


class TruncatedDownload(Exception):
    """Storage failed after the response had started; only an aborted connection can show it."""


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that a request asks for."""

    #: Name of the resource in errors and logs.
    resource: str
    size: int
    #: Strong ETag of the bytes, quoted.
    etag: bytes
    #: The headers of a 200 other than Content-Length.
    headers: list[Header]
    #: Streams *length* > 0 bytes from *offset*. Raises UpstreamError.
    read: Callable[[int, int], AsyncGenerator[bytes, None]]


class _RangeNotSatisfiable(Exception):
    """The range starts after the end of the content: 416."""


@dataclass(frozen=True, slots=True)
class _ByteRange:
    """A range of the content, or all of it."""

    start: int
    length: int
    #: Whether the client asked for a range: the status is 206, not 200.
    partial: bool


async def send_content(scope: Scope, send: Send, content: Content, statuses: StatusWriter) -> None:
    """Respond to a GET or HEAD of *content*. Raises UpstreamError before the response has started."""
    request_headers: Mapping[bytes, bytes] = dict(scope["headers"])
    if_match, if_none_match = request_headers.get(b"if-match"), request_headers.get(b"if-none-match")
    if if_match is not None and not _lists_etag(if_match, content.etag, weak=False):
        await _send_failure(send, 412, ErrorReason.ETAG_MISMATCH, content, content.headers, statuses)
    elif _lists_etag(if_none_match, content.etag, weak=True):
        await _send_empty(send, 304, content.headers)
    elif scope["method"] == "HEAD":
        await _send_empty(send, 200, [*content.headers, _content_length(content.size)])
    else:
        await _send_body(send, content, request_headers, statuses)


async def _send_body(
    send: Send, content: Content, request_headers: Mapping[bytes, bytes], statuses: StatusWriter
) -> None:
    try:
        byte_range = _parse_range(request_headers, content.size, content.etag)
    except _RangeNotSatisfiable:
        content_range = (b"content-range", f"bytes */{content.size}".encode())
        await _send_failure(send, 416, ErrorReason.RANGE_INVALID, content, [content_range], statuses)
        return
    headers = [*content.headers, _content_length(byte_range.length)]
    if byte_range.partial:
        last = byte_range.start + byte_range.length - 1
        headers.append((b"content-range", f"bytes {byte_range.start}-{last}/{content.size}".encode()))
    status = 206 if byte_range.partial else 200
    if byte_range.length:
        await _copy(send, content, byte_range, status, headers)
    else:
        await _send_empty(send, status, headers)


async def _copy(
    send: Send, content: Content, byte_range: _ByteRange, status: int, headers: list[Header]
) -> None:
    remaining = byte_range.length
    try:
        async with aclosing(content.read(byte_range.start, byte_range.length)) as chunks:
            async for chunk in chunks:
                if remaining == byte_range.length:
                    # Starts with the first bytes: an earlier failure still sets the status.
                    await send({"type": "http.response.start", "status": status, "headers": headers})
                remaining -= len(chunk)
                if remaining < 0:
                    raise TruncatedDownload(f"{content.resource}: storage sent more bytes than requested")
                await send({"type": "http.response.body", "body": chunk, "more_body": remaining > 0})
    except UpstreamError as error:
        if remaining < byte_range.length:
            raise TruncatedDownload(f"{content.resource}: {error}") from error
        raise
    if remaining:
        raise TruncatedDownload(f"{content.resource}: {remaining} bytes are missing")


async def _send_failure(
    send: Send,
    http_status: int,
    reason: ErrorReason.ValueType,
    content: Content,
    headers: list[Header],
    statuses: StatusWriter,
) -> None:
    etag = content.etag.decode()
    failure = errors.ReelhaulError(
        reason,
        f"{content.resource} has {content.size} bytes and the ETag {etag}",
        metadata={"resource": content.resource, "etag": etag, "sizeBytes": str(content.size)},
    )
    kept = [header for header in headers if header[0] in (b"content-range", b"etag", b"accept-ranges")]
    await send_response(send, http_status, kept, statuses.to_json(errors.to_status(failure)))


async def _send_empty(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _content_length(length: int) -> Header:
    return b"content-length", str(length).encode()


def _parse_range(headers: Mapping[bytes, bytes], size: int, etag: bytes) -> _ByteRange:
    """Return the range of a content of *size* bytes that a request asks for.

    Several ranges, units other than bytes, and invalid values select the whole content, as
    RFC 9110 section 14 allows; so does an If-Range other than *etag*. Raises _RangeNotSatisfiable.
    """
    whole = _ByteRange(0, size, partial=False)
    value = headers.get(b"range")
    if value is None or headers.get(b"if-range", etag) != etag:
        return whole
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[1] == match[2] == b"":
        return whole
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise _RangeNotSatisfiable
        return _ByteRange(size - length, length, partial=True)
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return whole
    if start >= size:
        raise _RangeNotSatisfiable
    return _ByteRange(start, min(last, size - 1) - start + 1, partial=True)


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
