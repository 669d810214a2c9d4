"""HTTP/1.1 responses over real sockets: the bytes that a client receives for what an application sends."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import asynccontextmanager

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from reelhaul_gateway.connections import ConnectionLimits
from reelhaul_gateway.http1_response import ResponseWriter
from reelhaul_gateway.http_server import serve_http

SECONDS = 20
_LIMITS = ConnectionLimits(
    total=100, per_peer=100, head_seconds=60, body_seconds=60, min_body_rate=0, total_body_bytes=1 << 30
)


def start(*headers, status=200):
    """Return the message that starts a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content=b"", *, more=False):
    """Return the message of a part of the body."""
    return {"type": "http.response.body", "body": content, "more_body": more}


def length(number):
    """Return the header with the length of the body."""
    return (b"content-length", b"%d" % number)


@asynccontextmanager
async def connected(*messages):
    """Connect to a server that answers each request with *messages*; yields the client's streams."""

    async def app(_scope, _receive, send):
        for message in messages:
            await send(dict(message))

    async with serve_http(
        app, "127.0.0.1:0", overloaded=app, limits=_LIMITS, keep_alive=60, drain_seconds=1
    ) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def exchange(*messages, method="GET", connection="close"):
    """Return the response to one request, without its date."""
    async with asyncio.timeout(SECONDS), connected(*messages) as (reader, writer):
        writer.write(f"{method} / HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n\r\n".encode())
        return re.sub(rb"date: [^\r]+\r\n", b"", await reader.read())


@pytest.mark.parametrize(
    ("messages", "method", "expected"),
    [
        pytest.param(
            [start(length(2)), body(b"ab")],
            "GET",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab",
            id="of a known length",
        ),
        pytest.param(
            [start(length(2)), body(b"a", more=True), body(b"b")],
            "GET",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab",
            id="of a known length in parts",
        ),
        pytest.param(
            [start(), body(b"a" * 17, more=True), body(more=True), body(b"b")],
            "GET",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            b"11\r\n" + b"a" * 17 + b"\r\n1\r\nb\r\n0\r\n\r\n",
            id="in chunks",
        ),
        pytest.param(
            [start(length(5)), body(b"")],
            "HEAD",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
            id="to HEAD",
        ),
        pytest.param(
            [start(), body(b"not sent")],
            "HEAD",
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            id="to HEAD without a length",
        ),
        pytest.param(
            [start(status=204), body()],
            "GET",
            b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            id="without a body",
        ),
        pytest.param(
            [start((b"X-Tab", b"a\tb"), (b"x-twice", b"1"), (b"x-twice", b"2"), length(0)), body()],
            "GET",
            b"HTTP/1.1 200 OK\r\nx-tab: a\tb\r\nx-twice: 1\r\nx-twice: 2\r\ncontent-length: 0\r\n"
            b"connection: close\r\n\r\n",
            id="with other headers",
        ),
    ],
)
async def test_a_response_has_these_bytes(messages, method, expected):
    assert await exchange(*messages, method=method) == expected


@pytest.mark.parametrize(
    "header",
    [(b"x-line", b"a\r\nx-other: b"), (b"x-nul", b"a\0b"), (b"x y", b"1"), (b"", b"1"), (b"x:y", b"1")],
)
async def test_an_invalid_header_is_not_sent_but_becomes_a_500(header):
    response = await exchange(start(header), body(b"secret"))
    assert response.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in response


@pytest.mark.parametrize(
    "parts", [[body(b"abc")], [body(b"a")], [body(b"a", more=True)], [start(length(2)), body(b"ab")]]
)
async def test_a_body_that_contradicts_its_length_ends_the_connection(parts):
    response = await exchange(start(length(2)), *parts, connection="keep-alive")
    assert response.partition(b"\r\n\r\n")[2] in (b"", b"a")


async def test_a_connection_serves_the_next_request_unless_the_application_closes_it():
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    async with asyncio.timeout(SECONDS), connected(start(length(2)), body(b"ab")) as (reader, writer):
        for _ in range(2):
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\nab")).startswith(b"HTTP/1.1 200 OK\r\n")
    async with (
        asyncio.timeout(SECONDS),
        connected(start(length(2), (b"connection", b"close")), body(b"ab")) as (reader, writer),
    ):
        writer.write(request + request)
        assert (await reader.read()).count(b"HTTP/1.1 200 OK\r\n") == 1


async def test_a_large_first_part_is_sent_whole():
    content = bytes(range(256)) * 4096
    response = await exchange(start(length(len(content) + 1)), body(content, more=True), body(b"!"))
    assert response.partition(b"\r\n\r\n")[2] == content + b"!"


class RecordingTransport(asyncio.Transport):
    """A transport that records each write; a socket does not show where one ended."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, data):
        self.writes.append(data)


@pytest.mark.parametrize(
    ("messages", "sizes"),
    [
        ([start(length(2)), body(b"ab")], [2]),
        ([start(), body(b"ab", more=True), body(b"c", more=True)], [7, 6]),
    ],
)
async def test_a_head_leaves_in_one_write_with_the_first_part_of_the_body(messages, sizes):
    async def app(_scope, _receive, send):
        for message in messages:
            await send(dict(message))

    transport = RecordingTransport()
    cycle = RequestResponseCycle(
        scope={"method": "GET"},
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    await ResponseWriter(cycle, app)(cycle.scope, cycle.receive, cycle.send)
    head, _, first = transport.writes[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [len(first), *map(len, transport.writes[1:])] == sizes
