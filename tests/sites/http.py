"""HTTP/1.1 by hand: a server that keeps the rules where asked, and breaks them where asked."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.sites.faults import WELL, Faults

_BODY_LIMIT = 64 * 1024
_BLOCK = 256 * 1024
_HOLE = 100_000
# A slice of a throttled body each so often: smooth enough for a speed display.
_TICK = 0.05
# A timer, and no event that nobody sets: the loop would let a task go that nothing else holds.
_FOREVER = 24 * 3600.0


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    #: By lower-case name; the last of equals.
    headers: dict[str, str] = field(repr=False)
    #: As on the request line: a proxy is asked with an authority or a whole URL.
    target: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer:
    """What is to be sent for a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    faults: Faults = WELL
    #: The byte of the whole that ``body`` begins with.
    start: int = 0


Respond = Callable[[Request], Awaitable[Answer]]


async def serve_connection(
    respond: Respond, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer the requests of one connection until either side has enough."""
    try:
        while request := await read_request(reader):
            answer = _ranged(request, await respond(request))
            if not await _write(request, answer, writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        pass  # The client's end, or no HTTP: both are the end of this connection.
    except asyncio.CancelledError:
        pass  # The site closes, and this task with it: a hang or a drip ends here.
    finally:
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end. Raises ValueError where it is no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    named = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in named}
    body = await reader.readexactly(min(int(headers.get("content-length", 0)), _BODY_LIMIT))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, target, body)


def etag(digest: str) -> str:
    """A strong entity tag of content with *digest*."""
    return f'"{digest[:32]}"'


def _ranged(request: Request, answer: Answer) -> Answer:
    """*answer*, or the part or the 304 that the request's conditional headers ask for."""
    tag = answer.headers.get("ETag")
    rangeable = tag is not None or "Accept-Ranges" in answer.headers
    if answer.status != 200 or not rangeable or answer.faults.ranges == "no" or answer.faults.chunked:
        return answer
    if tag is not None and request.headers.get("if-none-match") == tag:
        return Answer(304, b"", answer.headers, answer.faults)
    headers = {**answer.headers, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    known = (tag, answer.headers.get("Last-Modified"))
    same = answer.faults.blind or request.headers.get("if-range", tag) in known
    if not wanted or not any(wanted.groups()) or not same:
        return Answer(200, answer.body, headers, answer.faults)
    size = len(answer.body)
    start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
    end = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
    if start > end:
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"}, answer.faults)
    shift = answer.faults.shift
    headers["Content-Range"] = f"bytes {start + shift}-{end + shift}/{size}"
    return Answer(206, answer.body[start : end + 1], headers, answer.faults, start)


async def _write(request: Request, answer: Answer, writer: asyncio.StreamWriter) -> bool:
    """Send *answer*; whether the connection is good for another request."""
    faults = answer.faults
    await asyncio.sleep(faults.delay)
    if faults.hang:
        await asyncio.sleep(_FOREVER)
    headers = dict(answer.headers)
    if faults.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif answer.status != 304:
        headers["Content-Length"] = str(max(0, len(answer.body) + faults.length))
    reason = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    if request.method != "HEAD":
        sent = _until_the_hole(answer)
        await _write_body(sent, faults, writer)
        if len(sent) < len(answer.body):
            return False
    await writer.drain()
    return not faults.length and request.headers.get("connection", "").lower() != "close"


def _until_the_hole(answer: Answer) -> bytes:
    """What is sent of *answer*: all, or what comes before bytes that are never sent."""
    hole = answer.faults.hole
    if not hole or not answer.start - _HOLE < hole < answer.start + len(answer.body):
        return answer.body
    return answer.body[: max(0, hole - answer.start)]


async def _write_body(body: bytes, faults: Faults, writer: asyncio.StreamWriter) -> None:
    # Drained means handed to the kernel: a reset then loses nothing that came before it.
    # Not 0: a TLS transport would take an empty buffer for a full one, and wait for ever.
    writer.transport.set_write_buffer_limits(high=1)
    limit = min(value for value in (faults.reset, faults.stall, len(body)) if value or value == len(body))
    block = max(1, int(faults.rate * _TICK)) if faults.rate else _BLOCK
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
    """End the connection with RST, as a crashed server or a cut cable does."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError
