"""The guard as a proxy: it forwards allowed traffic unchanged, enforces budgets, and cuts what hangs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack

import pytest
from tests.fetcher.guard_harness import (
    PUBLIC,
    InProcessGuard,
    Site,
    in_process_guard,
    proxy_client,
    running_site,
)

from reelhaul_fetcher.guard.proxy import Limits

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"


def with_length(body: bytes) -> bytes:
    """Return a response with Content-Length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes, size: int = 70_000) -> bytes:
    """Return a chunked response with chunks of *size*."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def get(
    guard: InProcessGuard, site: Site, path: str = "/", method: str = "GET", *fields: str, body: bytes = b""
):
    """Request the public site through the guard."""
    return await guard.request(method, f"http://{PUBLIC}:{site.port}{path}", *fields, body=body)


async def get_through_tunnel(guard: InProcessGuard, site: Site, path: str) -> bytes:
    """Return the bytes of a response through a tunnel, up to its end."""
    async with proxy_client(guard.port) as client:
        connected = await client.request("CONNECT", f"{PUBLIC}:{site.port}", credentials=guard.credentials)
        assert connected.status == 200
        await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.writer.write_eof()
        return await client.reader.read()


async def test_large_bodies():
    """Long bodies arrive unchanged: with a length, in chunks, until close, and in tunnels."""
    body = os.urandom(1 << 20) * 24 + b"end"
    digest = hashlib.sha256(body).digest()
    async with running_site() as site, in_process_guard() as guard:
        site.responses = {
            "/length": with_length(body),
            "/chunks": in_chunks(body),
            "/close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
        }
        site.closing = {"/close"}
        for path in site.responses:
            response = await get(guard, site, path)
            assert hashlib.sha256(response.body).digest() == digest, path
            tunnelled = await get_through_tunnel(guard, site, path)
            assert tunnelled == site.responses[path]
        sent = 2 * sum(map(len, site.responses.values()))
        assert guard.session.usage.ingress_bytes == sent


async def test_keep_alive_after_every_framing():
    """The connection can be reused after each kind of response that defines its own end."""
    async with running_site() as site, in_process_guard() as guard:
        site.responses = {
            "/chunks": CHUNKED,
            "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
            "/same": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
            "/early": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + with_length(b"late"),
        }
        async with proxy_client(guard.port) as client:
            bodies = []
            for path in ["/chunks", "/none", "/early", "/"]:
                method = "HEAD" if path == "/none" else "GET"
                target = f"http://{PUBLIC}:{site.port}{path}"
                bodies.append((await client.request(method, target, credentials=guard.credentials)).body)
            not_modified = await client.request(
                "HEAD", f"http://{PUBLIC}:{site.port}/same", credentials=guard.credentials
            )
    assert bodies == [b"hello, world", b"", b"late", b"ok"]
    assert (not_modified.status, not_modified.fields["content-length"]) == (304, "99")
    assert site.accepted == 1


async def test_request_bodies():
    """Request bodies reach the site unchanged, with a length or in chunks, with or without 100-continue."""
    body = os.urandom(3 << 20)
    async with running_site() as site, in_process_guard() as guard:
        assert (await get(guard, site, "/", "POST", "Content-Length: 0")).status == 200
        assert (await get(guard, site, "/", "POST", f"Content-Length: {len(body)}", body=body)).status == 200
        chunked = b"3\r\nabc\r\n0\r\n\r\n"
        assert (await get(guard, site, "/", "POST", "Transfer-Encoding: chunked", body=chunked)).status == 200
        async with proxy_client(guard.port) as client:
            target = f"http://{PUBLIC}:{site.port}/"
            fields = ["Expect: 100-continue", "Content-Length: 2"]
            interim = await client.request("POST", target, *fields, credentials=guard.credentials)
            assert interim.status == 100
            await client.send(b"ab")
            assert (await client.read_response()).status == 200
    assert site.bodies == [b"", body, chunked, b"ab"]
    assert b"Content-Length: 0\r\n" in site.heads[0]


async def test_site_closes_a_kept_connection():
    """A kept connection that the site closes between requests is replaced; the client does not notice."""
    async with running_site() as site, in_process_guard() as guard:
        site.closing = {"/bye"}
        async with proxy_client(guard.port) as client:
            for path in ("/bye", "/", "/bye", "/"):
                response = await client.request(
                    "GET", f"http://{PUBLIC}:{site.port}{path}", credentials=guard.credentials
                )
                assert response.status == 200
    assert site.accepted == 3


async def test_old_client():
    """HTTP/1.0 clients are served (http.client opens tunnels so), and closed after each response."""
    async with running_site() as site, in_process_guard() as guard, proxy_client(guard.port) as client:
        target = f"http://{PUBLIC}:{site.port}/"
        await client.send(
            f"GET {target} HTTP/1.0\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n".encode()
        )
        response = await client.read_response()
        assert (response.status, response.body, response.fields["connection"]) == (200, b"ok", "close")
        assert await client.reader.read() == b""
    assert site.heads[0].startswith(b"GET / HTTP/1.0\r\n")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_truncated_response(framing):
    """A response that the site truncates is cut here too: no client takes a part for the whole."""
    whole = with_length(b"x" * 200_000) if framing == "length" else in_chunks(b"x" * 200_000)
    async with running_site() as site, in_process_guard() as guard:
        site.responses["/half"] = whole[:100_000]
        site.closing = {"/half"}
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await get(guard, site, "/half")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"ICY 200 OK\r\n\r\n", "answer-status-line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "answer-length"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", "answer-head-size"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "closed"),
    ],
)
async def test_unreadable_response(response, reason):
    """A response that cannot be parsed is a 502 that says why."""
    async with running_site() as site, in_process_guard() as guard:
        site.responses["/"] = response
        site.closing = {"/"}
        received = await get(guard, site)
    assert (received.status, received.failure) == (502, reason)


async def test_unreachable_sites():
    """An unknown name and a closed port are failures, not refusals."""
    async with in_process_guard({"two.test": [PUBLIC, PUBLIC]}) as guard:
        unknown = await guard.request("CONNECT", "unknown.test:443")
        assert (unknown.status, unknown.failure) == (502, "unresolved")
        closed = await guard.request("CONNECT", "two.test:1")
        assert (closed.status, closed.failure) == (502, "connect-failed")
        assert not guard.session.usage.refusals


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("denied.example", True),
        ("CDN.Denied.Example.", True),
        ("youtu.be", True),
        ("notdenied.example", False),
        ("denied.example.org", False),
    ],
)
async def test_denied_sites(host: str, refused: bool):
    """The guard connects to no host of a site that the server denies, wherever a page leads to it."""
    names = {name: [PUBLIC] for name in ("notdenied.example", "denied.example.org")}
    denied = ("denied.example", "youtube.com")
    async with running_site() as site, in_process_guard(names, denied_sites=denied) as guard:
        response = await guard.request("GET", f"http://{host}:{site.port}/")
    assert response.status == (403 if refused else 200)
    assert (response.refusal == "site") is refused


async def test_next_address():
    """If the first address of a name does not answer, the next one is tried."""
    names = {"two.test": ["127.0.0.4", PUBLIC]}
    async with (
        running_site() as site,
        in_process_guard(names, allow_networks=["127.0.0.2/32", "127.0.0.4/32"]) as guard,
    ):
        assert (await guard.request("GET", f"http://two.test:{site.port}/")).status == 200


@pytest.mark.parametrize("transfer", ["length", "tunnel"])
async def test_byte_budget(transfer):
    """A session transfers at most its byte limit; then it is cut, and refuses with the reason."""
    limit = 6 << 20
    async with running_site() as site, in_process_guard(byte_limit=limit) as guard:
        site.responses["/"] = with_length(b"x" * (12 << 20))
        async with proxy_client(guard.port) as client:
            target = f"{PUBLIC}:{site.port}"
            if transfer == "tunnel":
                await client.request("CONNECT", target, credentials=guard.credentials)
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
            else:
                line = f"GET http://{target}/ HTTP/1.1\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n"
                await client.send(line.encode())
            received = await client.read_until_reset()
        assert 0 < received <= limit
        after = await get(guard, site)
        assert (after.status, after.refusal) == (403, "byte-budget")
        assert ("", "byte-budget") in guard.session.usage.refusals


async def test_exact_byte_budget():
    """Traffic of exactly the byte limit is forwarded."""
    async with running_site() as site, in_process_guard() as guard:
        await get(guard, site)
        used = guard.session.usage.total_bytes
    async with running_site(port=site.port) as site, in_process_guard(byte_limit=used) as guard:
        assert (await get(guard, site)).status == 200
        assert (await get(guard, site)).refusal == "byte-budget"


async def test_time_budget():
    """When a session's time is over its transfers are cut, and later requests are refused with the reason."""
    async with running_site() as site, in_process_guard(seconds=0.3) as guard:
        site.responses["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
        site.hanging = {"/"}
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await get(guard, site)
        after = await get(guard, site)
        assert (after.status, after.refusal) == (403, "time-budget")
        assert next(iter(guard.session.usage.refusals)) == ("", "time-budget")


async def test_connection_limit():
    """A session has a limit of connections; one that ends frees its place."""
    async with running_site() as site, in_process_guard(limits=Limits(connections_per_session=2)) as guard:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                client = await stack.enter_async_context(proxy_client(guard.port))
                await client.request("CONNECT", f"{PUBLIC}:{site.port}", credentials=guard.credentials)
            refused = await get(guard, site)
            assert (refused.status, refused.failure) == (503, "connections")
        if ending := set(guard.session.connections):
            await asyncio.wait(ending, timeout=5)
        assert (await get(guard, site)).status == 200


async def test_idle_tunnel():
    """An idle tunnel is cut."""
    async with (
        running_site() as site,
        in_process_guard(limits=Limits(idle_seconds=0.2)) as guard,
        proxy_client(guard.port) as client,
    ):
        await client.request("CONNECT", f"{PUBLIC}:{site.port}", credentials=guard.credentials)
        assert await client.read_until_reset() == 0


async def test_silent_client():
    """A client that does not authenticate in time is cut, even if it sends a byte now and then."""
    limits = Limits(greeting_seconds=0.2, idle_seconds=2)
    async with in_process_guard(limits=limits) as guard, proxy_client(guard.port) as client:
        await client.send(b"GET http://")
        assert await client.read_until_reset() == 0


async def test_endless_head():
    """A head that does not end is refused at the size limit."""
    async with in_process_guard() as guard, proxy_client(guard.port) as client:
        await client.send(b"GET http://a.test/ HTTP/1.1\r\nX: " + b"y" * 80_000)
        response = await client.read_response()
    assert (response.status, response.refusal) == (400, "head-size")


async def test_slow_reader():
    """A client that does not read blocks only its own transfer, which the guard does not buffer."""
    async with running_site() as site, in_process_guard() as guard, proxy_client(guard.port) as slow:
        site.responses["/big"] = with_length(b"x" * (64 << 20))
        await slow.request("CONNECT", f"{PUBLIC}:{site.port}", credentials=guard.credentials)
        await slow.send(b"GET /big HTTP/1.1\r\n\r\n")
        assert await slow.reader.read(1)
        assert (await get(guard, site)).status == 200
        assert guard.session.usage.ingress_bytes < 48 << 20


async def test_refusals_are_bounded():
    """Only the latest refusals are kept, and the count of all."""
    async with in_process_guard() as guard:
        for number in range(70):
            await guard.request("GET", f"http://10.0.0.{number}/")
        assert len(guard.session.usage.refusals) == 64
        assert guard.session.usage.refusals[-1] == ("10.0.0.69", "private")
        assert guard.session.usage.refusal_count == 70
