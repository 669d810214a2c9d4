"""ASGI messages: read a request body, send a response, compress it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from reelhaul_transcoding.errors import BodyTooLarge, FieldError, UnsupportedMediaType

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

# A client that is still sending when we close the connection sees a reset instead of our
# response: a body up to this factor too large is read to its end before it is rejected.
_DISCARD_FACTOR = 4
_STATUSES_WITHOUT_BODY = frozenset({204, 304})
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class ClientDisconnected(Exception):
    """The client disconnected before it had sent its whole request."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """Return the whole request body, inflated.

    Raises TranscodingError above *limit* bytes or for a bad encoding, and ClientDisconnected.
    """
    # One buffer, since a list of small chunks would need many times their size.
    buffer = bytearray()
    size = 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size <= limit:
            buffer += chunk
        elif size > limit * _DISCARD_FACTOR:
            break
    if size > limit:
        raise BodyTooLarge(limit)
    body = bytes(buffer)
    return _inflate(body, headers[b"content-encoding"], limit) if b"content-encoding" in headers else body


class BodyStream:
    """A request body as it arrives: an asynchronous iterable of chunks, which raises ClientDisconnected."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in _chunks(self._receive):
            yield chunk
        self._ended.set()

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next ASGI message after the body; waits for its end."""
        await self._ended.wait()
        return await self._receive()


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnected
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def send_response(
    send: Send,
    status: int,
    headers: list[Header],
    body: bytes,
    *,
    content_type: bytes = b"application/json",
    reason: str = "",
) -> None:
    """Send a whole response. *body* is dropped if *status* has none (RFC 9110 section 6.4.1).

    *reason*: of an error, for middleware that logs it; servers ignore it.
    """
    if status in _STATUSES_WITHOUT_BODY:
        body, all_headers = b"", headers
    else:
        length = str(len(body)).encode()
        all_headers = [(b"content-type", content_type), (b"content-length", length), *headers]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": all_headers}
    if reason:
        start["reason"] = reason
    await send(start)
    await send({"type": "http.response.body", "body": body})


def compress(body: bytes, headers: Mapping[bytes, bytes], from_bytes: int) -> tuple[bytes, list[Header]]:
    """Return *body* and response headers, as gzip if it is large enough and the client accepts gzip."""
    if not from_bytes or len(body) < from_bytes:
        return body, []
    if not accepts_gzip(headers.get(b"accept-encoding", b"")):
        return body, [(b"vary", b"accept-encoding")]
    # JSON shrinks by a factor of eight at any level; level 1 takes a third of the time.
    compressed = zlib.compress(body, level=1, wbits=_GZIP_WBITS)
    return compressed, [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]


def accepts_gzip(header: bytes) -> bool:
    """Return whether an Accept-Encoding *header* allows gzip. RFC 9110 section 12.5.3."""
    qualities: dict[bytes, bool] = {}
    for element in header.lower().split(b","):
        coding, _, parameters = element.partition(b";")
        qualities[coding.strip()] = _has_positive_quality(parameters)
    any_other = qualities.get(b"*", False)
    return qualities.get(b"gzip", qualities.get(b"x-gzip", any_other))


def _has_positive_quality(parameters: bytes) -> bool:
    """Return whether the quality in *parameters* (``q=0.5``) is above 0, or absent; not if it is invalid."""
    name, _, value = parameters.partition(b"=")
    if not name.strip():
        return True
    try:
        return name.strip() == b"q" and 0 < float(value) <= 1
    except ValueError:
        return False


def _inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding.strip().lower() == b"identity":
        return body
    if encoding.strip().lower() != b"gzip":
        raise UnsupportedMediaType(
            f"content-encoding {encoding.decode('latin-1')[:50]!r} is not supported; send gzip"
        )
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    try:
        inflated = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise FieldError("", "the body is not valid gzip") from error
    if len(inflated) > limit:
        raise BodyTooLarge(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise FieldError("", "the body is not exactly one gzip stream")
    return inflated
