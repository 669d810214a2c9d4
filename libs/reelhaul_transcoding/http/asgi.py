"""HTTP: the few ASGI things that are done for every request."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from reelhaul_transcoding.errors import FieldFault, TooLarge, Unsupported

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

# A client that is still sending when we close sees a reset instead of our answer: a body that
# is a little too large is read to its end.
_PATIENCE = 4
_GZIP = 16 + zlib.MAX_WBITS
_REFUSED = re.compile(rb"gzip\s*;\s*q=0(?:\.0*)?\s*(?:,|$)")


class ClientGone(Exception):
    """The client hung up before its request was whole."""


async def body_of(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole body, inflated. Raises Fault above *limit* bytes, and ClientGone."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit * _PATIENCE:
            break
    if size > limit:
        raise TooLarge(limit)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return _inflated(body, headers[b"content-encoding"], limit) if b"content-encoding" in headers else body


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def respond(
    send: Send, status: int, headers: list[Header], body: bytes, *, content_type: bytes = b"application/json"
) -> None:
    """Send a whole answer."""
    length = str(len(body)).encode()
    all_headers = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


def compressed(body: bytes, headers: Mapping[bytes, bytes], from_bytes: int) -> tuple[bytes, list[Header]]:
    """*body* as gzip where it is worth it and the client takes it, and the headers to say so."""
    if not from_bytes or len(body) < from_bytes:
        return body, []
    accepted = headers.get(b"accept-encoding", b"")
    if b"gzip" not in accepted or _REFUSED.search(accepted):
        return body, [(b"vary", b"accept-encoding")]
    # Level 1: JSON shrinks by a factor of eight either way, at a third of the time.
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    packed = packer.compress(body) + packer.flush()
    return packed, [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]


def _inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding.strip().lower() == b"identity":
        return body
    if encoding.strip().lower() != b"gzip":
        raise Unsupported(f"content-encoding {encoding.decode('latin-1')[:50]!r} is not taken; send gzip")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        inflated = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise FieldFault("", "the body is no gzip") from error
    if len(inflated) > limit:
        raise TooLarge(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise FieldFault("", "the body is no whole gzip")
    return inflated
