"""HTTP/1.1 server that follows the rules, or breaks them where a response has faults."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.sites.faults import NO_FAULTS, Faults

_BODY_LIMIT = 64 * 1024
_BLOCK_BYTES = 256 * 1024
_HOLE_BYTES = 100_000
# Interval of a throttled body's writes: short enough for a smooth speed display.
_TICK_SECONDS = 0.05
# A task that waits for an event that is never set could be garbage-collected; a timer is not.
_FOREVER = 24 * 3600.0


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: dict[str, str]
    #: By lower-case name; of repeated headers the last one.
    headers: dict[str, str] = field(repr=False)
    #: The request line's target; a proxy gets an authority or an absolute URL.
    target: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Response:
    """A response to send."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    faults: Faults = NO_FAULTS
    #: Position of ``body`` in the whole content.
    start: int = 0


Handler = Callable[[Request], Awaitable[Response]]


async def serve_connection(
    handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer the requests of one connection until either side closes it."""
    try:
        while request := await read_request(reader):
            response = _apply_range(request, await handler(request))
            if not await _send(request, response, writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        pass  # The client closed the connection, or does not speak HTTP.
    except asyncio.CancelledError:
        pass  # The site is closing; this ends a hang or a slow body.
    finally:
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Return the next request of a connection, or None at its end. Raises ValueError if it is not HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request_line, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = request_line.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(min(int(headers.get("content-length", 0)), _BODY_LIMIT))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, target, body)


def etag(digest: str) -> str:
    """Return the strong entity tag of content with *digest*."""
    return f'"{digest[:32]}"'


def _apply_range(request: Request, response: Response) -> Response:
    """Return *response*, or the 206, 304 or 416 that the request's Range and conditional headers ask for."""
    tag = response.headers.get("ETag")
    rangeable = tag is not None or "Accept-Ranges" in response.headers
    if response.status != 200 or not rangeable or response.faults.ranges == "no" or response.faults.chunked:
        return response
    if tag is not None and request.headers.get("if-none-match") == tag:
        return Response(304, b"", response.headers, response.faults)
    headers = {**response.headers, "Accept-Ranges": "bytes"}
    requested = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    validators = (tag, response.headers.get("Last-Modified"))
    unchanged = response.faults.blind or request.headers.get("if-range", tag) in validators
    if not requested or not any(requested.groups()) or not unchanged:
        return Response(200, response.body, headers, response.faults)
    size = len(response.body)
    start = int(requested[1]) if requested[1] else max(0, size - int(requested[2]))
    end = min(int(requested[2]), size - 1) if requested[1] and requested[2] else size - 1
    if start > end:
        return Response(416, b"", {**headers, "Content-Range": f"bytes */{size}"}, response.faults)
    shift = response.faults.shift
    headers["Content-Range"] = f"bytes {start + shift}-{end + shift}/{size}"
    return Response(206, response.body[start : end + 1], headers, response.faults, start)


async def _send(request: Request, response: Response, writer: asyncio.StreamWriter) -> bool:
    """Send *response*; return whether the connection can carry another request."""
    faults = response.faults
    await asyncio.sleep(faults.delay)
    if faults.hang:
        await asyncio.sleep(_FOREVER)
    headers = dict(response.headers)
    if faults.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif response.status != 304:
        headers["Content-Length"] = str(max(0, len(response.body) + faults.length))
    reason = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    if request.method != "HEAD":
        body = _body_before_hole(response)
        await _send_body(body, faults, writer)
        if len(body) < len(response.body):
            return False
    await writer.drain()
    return not faults.length and request.headers.get("connection", "").lower() != "close"


def _body_before_hole(response: Response) -> bytes:
    """Return the part of the body before the bytes that are never sent; all of it without a hole."""
    hole = response.faults.hole
    if not hole or not response.start - _HOLE_BYTES < hole < response.start + len(response.body):
        return response.body
    return response.body[: max(0, hole - response.start)]


async def _send_body(body: bytes, faults: Faults, writer: asyncio.StreamWriter) -> None:
    # With a low limit drain() returns when the kernel has the data: a reset then loses nothing before it.
    # Not 0: a TLS transport would take an empty buffer for a full one and wait forever.
    writer.transport.set_write_buffer_limits(high=1)
    limit = min(value for value in (faults.reset, faults.stall, len(body)) if value or value == len(body))
    block = max(1, int(faults.rate * _TICK_SECONDS)) if faults.rate else _BLOCK_BYTES
    for start in range(0, limit, block):
        piece = body[start : min(start + block, limit)]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if faults.chunked else piece)
        await writer.drain()
        if faults.rate:
            await asyncio.sleep(len(piece) / faults.rate)
    if faults.reset and limit < len(body):
        _reset(writer)
    if faults.stall and limit < len(body):
        await asyncio.sleep(_FOREVER)
    if faults.chunked:
        writer.write(b"0\r\n\r\n")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with a TCP reset, as a crashed server does."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


@contextmanager
def serve_in_thread(start: Callable[[], Awaitable[asyncio.Server]], name: str) -> Iterator[None]:
    """Run the server that *start* returns on an event loop in a thread until the block ends.

    Raises what *start* raises.
    """
    started: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await start():
            started.set_result(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            started.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    stop_server = started.result()
    try:
        yield
    finally:
        stop_server()
        thread.join()
