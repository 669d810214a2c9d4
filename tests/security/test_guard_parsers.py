"""Every parser of the guard is linear: no head or body stops its loop, which serves all downloads."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from ipaddress import ip_address

import pytest
from tests.fetcher.guard_harness import PUBLIC, in_process_guard, proxy_client, running_site

from reelhaul_fetcher.guard.errors import Malformed, Refused
from reelhaul_fetcher.guard.http.chunks import ChunkScanner
from reelhaul_fetcher.guard.http.fields import end_to_end_lines, list_members
from reelhaul_fetcher.guard.http.requests import parse_request_head
from reelhaul_fetcher.guard.http.responses import parse_response
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.guard.verdicts import find_verdict
from reelhaul_fetcher.model.proxy_usage import Refusal, Usage
from reelhaul_runtime.addresses import Rules, parse_host

SMALL, FACTOR = 8_000, 8
# Quadratic work grows by 64 and linear by 8; short runs on a busy machine vary by two.
LARGEST_GROWTH = 24
# Below this the growth of work is noise.
FLOOR_SECONDS = 0.002


def parse_and_encode_request(head: bytes) -> None:
    """Parse *head* as a request, credentials included, and write it for the site."""
    parsed = parse_request_head(head)
    parsed.credentials()
    parsed.to_request().encode("Basic x")


def parse_and_encode_response(head: bytes) -> None:
    """Parse *head* as a response and write it for the client."""
    parsed = parse_response(head)
    parsed.encode(parsed.body_length("GET"), parsed.keep_alive)


def scan(body: bytes) -> None:
    """Scan a chunked body that arrives at once."""
    scanner, position, before = ChunkScanner(), 0, -1
    while position != before:
        before, position = position, scanner.feed(body, position, len(body))


def scan_by_byte(body: bytes) -> None:
    """Scan a chunked body that arrives byte by byte."""
    scanner = ChunkScanner()
    for position in range(len(body)):
        scanner.feed(body, position, position + 1)


def connection_fields(count: int) -> None:
    """Read a Connection list and drop what it names."""
    fields = [("Connection", "a," * (count // 2)), ("X", "y")]
    list_members(fields, "connection")
    list(end_to_end_lines(fields))


def usage_report(count: int) -> None:
    """Record refusals and decode the report of them."""
    usage = Usage()
    for number in range(count // 100):
        usage.add_refusal(f"{number}.test", "private")
    Usage.from_json(json.loads(json.dumps(asdict(usage))))
    assert usage.refusals[-1] == Refusal(f"{count // 100 - 1}.test", "private")


def check_addresses(count: int) -> None:
    """Check a DNS answer."""
    Rules().check([ip_address("2606:4700::1111")] * (count // 100), 443)


#: Of the session of ``in_process_guard``.
CREDENTIALS = "Basic eDpzZWNyZXQ="
GET = b"GET http://a.test/"
OK = b"HTTP/1.1 200 OK\r\n"

#: Parser and the maker of its input, by what the input is made of.
PARSERS: dict[str, tuple[Callable[..., None], Callable[[int], object]]] = {
    "request target": (
        parse_and_encode_request,
        lambda n: GET + b"a" * min(n, 16_000) + b" HTTP/1.1\r\n\r\n",
    ),
    "request authority": (
        parse_and_encode_request,
        lambda n: b"GET http://" + b"a:" * (n // 2) + b" HTTP/1.1\r\n\r\n",
    ),
    "request spaces in a value": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\nA: x" + b" " * n + b"y\r\n\r\n",
    ),
    "request field without a colon": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\n" + b"a" * n + b"\r\n\r\n",
    ),
    "request fields": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\n" + b"a:\r\n" * (n // 4) + b"\r\n",
    ),
    "request carriage returns": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\n" + b"\r" * n + b"\r\n\r\n",
    ),
    "request credentials": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\nProxy-Authorization: Basic " + b"e" * n + b"\r\n\r\n",
    ),
    "request Connection list": (
        parse_and_encode_request,
        lambda n: GET + b" HTTP/1.1\r\nConnection: " + b"a," * (n // 2) + b"\r\n\r\n",
    ),
    "response spaces in a value": (
        parse_and_encode_response,
        lambda n: OK + b"A: x" + b" " * n + b"y\r\n\r\n",
    ),
    "response spaces at the end": (
        parse_and_encode_response,
        lambda n: OK + b"A: x" + b" " * n + b"\r\n\r\n",
    ),
    "response spaces before a colon": (
        parse_and_encode_response,
        lambda n: OK + b"A" + b" " * n + b"y: x\r\n\r\n",
    ),
    "response phrase": (
        parse_and_encode_response,
        lambda n: b"HTTP/1.1 200 " + b" \t" * (n // 2) + b"\x00\r\n\r\n",
    ),
    "response carriage returns": (parse_and_encode_response, lambda n: OK + b"\r" * n + b"a\r\n\r\n"),
    "response folds": (parse_and_encode_response, lambda n: OK + b"A: x" + b"\r\n " * (n // 3) + b"\r\n\r\n"),
    "response fold of spaces": (
        parse_and_encode_response,
        lambda n: OK + b"A: x\r\n" + b" " * n + b"y\r\n\r\n",
    ),
    "response fields": (parse_and_encode_response, lambda n: OK + b"a:\r\n" * (n // 4) + b"\r\n"),
    "response lengths": (
        parse_and_encode_response,
        lambda n: OK + b"Content-Length: " + b"1," * (n // 2) + b"1\r\n\r\n",
    ),
    "response codings": (
        parse_and_encode_response,
        lambda n: OK + b"Transfer-Encoding: " + b"a," * (n // 2) + b"\r\n\r\n",
    ),
    "response Connection list": (
        parse_and_encode_response,
        lambda n: OK + b"Connection: " + b"a," * (n // 2) + b"\r\n\r\n",
    ),
    "chunks": (scan, lambda n: b"1\r\nx\r\n" * (n // 6)),
    "chunks by byte": (scan_by_byte, lambda n: b"1\r\nx\r\n" * (n // 6)),
    "chunk extension": (scan, lambda n: b"1" + b" " * min(n, 4000) + b";\r\nx\r\n" * (n // 4000)),
    "chunk trailers": (scan, lambda n: b"0\r\n" + b"a:b\r\n" * (n // 5)),
    "host": (parse_host, lambda n: "a." * (n // 2)),
    "host of dashes": (parse_host, lambda n: "-" * n),
    "Connection list": (connection_fields, lambda n: n),
    "usage report": (usage_report, lambda n: n),
    "addresses": (check_addresses, lambda n: n),
    "verdict": (lambda text: find_verdict(text, "x"), lambda n: "refused a " * (n // 10)),
    "long verdict": (lambda text: find_verdict(text, "x"), lambda n: "refused a " + "b" * n),
}


def measure(parse: Callable[..., object], content: object) -> float:
    """Return the CPU seconds that *parse* takes for *content*: the least of three runs."""

    def run() -> float:
        started = time.process_time()
        with suppress(Malformed, Refused):
            parse(content)
        return time.process_time() - started

    return min(run() for _ in range(3))


@pytest.mark.parametrize(("parse", "make"), PARSERS.values(), ids=PARSERS)
def test_linear(parse: Callable[..., None], make: Callable[[int], object]) -> None:
    """Eight times the input is about eight times the work, also if the input is rejected."""
    small, large = measure(parse, make(SMALL)), measure(parse, make(SMALL * FACTOR))
    assert large <= max(small, FLOOR_SECONDS) * LARGEST_GROWTH


@pytest.mark.parametrize("spaces", [10, 65_000])
async def test_head_of_spaces(spaces: int) -> None:
    """A response head of spaces is forwarded as any other, in next to no time."""
    async with running_site() as site, in_process_guard() as guard, proxy_client(guard.port) as client:
        field = f"A: x{' ' * spaces}y\r\n".encode()
        site.responses["/"] = b"HTTP/1.1 200 OK\r\n" + field + b"Content-Length: 2\r\n\r\nok"
        started = time.process_time()
        lines = [f"GET http://{PUBLIC}:{site.port}/ HTTP/1.1", f"Proxy-Authorization: {CREDENTIALS}"]
        await client.send("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = await client.reader.read()
        seconds = time.process_time() - started
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n" + field)
    assert answer.endswith(b"\r\n\r\nok")
    assert seconds < 2


async def test_tiny_chunks() -> None:
    """A body of 50,000 chunks of one byte is relayed as it is, and blocks the guard's loop only briefly."""
    body = b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    async with running_site() as site, in_process_guard() as guard:
        site.responses["/"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        answer = await guard.request("GET", f"http://{PUBLIC}:{site.port}/")
    assert answer.body == b"x" * 50_000
    steps, position, scanner = 0, 0, ChunkScanner()
    while not scanner.done:
        position = scanner.feed(body, position, len(body))
        steps += 1
    assert steps > 20


@pytest.mark.parametrize("count", [1, 100])
async def test_configuration_with_many_refusals(count: int) -> None:
    """A restarted guard takes over 100 sessions with as many refusals of as long hosts as are kept."""
    usage = Usage()
    for _ in range(64):
        usage.add_refusal(".".join(["x" * 62] * 4), "private")
    session = {"secret": "s", "byte_limit": 0, "seconds": 0, "egress": "", "usage": asdict(usage)}
    sessions = [session | {"name": f"s{number}"} for number in range(count)]
    config = {"id": 1, "method": "configure", **asdict(GuardConfig()), "sessions": sessions}
    listener, (ours, theirs) = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
    descriptors = map(str, (theirs.fileno(), listener.fileno()))
    with listener, theirs:
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "reelhaul_fetcher.guard", *descriptors),
            pass_fds=(theirs.fileno(), listener.fileno()),
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(json.dumps(config).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"id": 1}
    writer.close()
    assert await guard.wait() == 0
