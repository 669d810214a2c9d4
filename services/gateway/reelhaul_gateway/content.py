"""Serves content of a known size over HTTP: ranges and conditional requests. RFC 9110, sections 13 and 14."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors
from reelhaul_runtime.file_responses import ByteRange, FileResponse, build_response
from reelhaul_transcoding.http.asgi import Header, Scope, Send, send_response
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import UpstreamError

_NO_CONTENT = (b"content-length", b"0")


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
    #: Returns a link to redirect a GET to, in place of the bytes. Raises UpstreamError. None: no redirect.
    sign_link: Callable[[], Awaitable[str]] | None = None


async def send_content(scope: Scope, send: Send, content: Content, statuses: StatusWriter) -> None:
    """Respond to a GET or HEAD of *content*. Raises UpstreamError before the response has started."""
    response = build_response(
        scope["method"], dict(scope["headers"]), content.headers, content.size, content.etag
    )
    if response.status == 412:
        await _send_failure(send, response, ErrorReason.ETAG_MISMATCH, content, statuses)
    elif response.status == 416:
        await _send_failure(send, response, ErrorReason.RANGE_INVALID, content, statuses)
    elif response.content is None:
        await _send_empty(send, response.status, response.headers)
    elif content.sign_link is not None:
        await _redirect(send, await content.sign_link())
    elif response.content.length:
        await _copy(send, content, response.content, response.status, response.headers)
    else:
        await _send_empty(send, response.status, response.headers)


async def _redirect(send: Send, url: str) -> None:
    # Whoever knows the link can read the content: no cache keeps it.
    headers = [(b"location", url.encode()), (b"cache-control", b"private, no-store"), _NO_CONTENT]
    await _send_empty(send, 307, headers)


async def _copy(
    send: Send, content: Content, byte_range: ByteRange, status: int, headers: list[Header]
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
    response: FileResponse,
    reason: ErrorReason.ValueType,
    content: Content,
    statuses: StatusWriter,
) -> None:
    etag = content.etag.decode()
    failure = errors.ReelhaulError(
        reason,
        f"{content.resource} has {content.size} bytes and the ETag {etag}",
        metadata={"resource": content.resource, "etag": etag, "sizeBytes": str(content.size)},
    )
    kept = [each for each in response.headers if each[0] in (b"content-range", b"etag", b"accept-ranges")]
    await send_response(send, response.status, kept, statuses.to_json(errors.to_status(failure)))


async def _send_empty(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
