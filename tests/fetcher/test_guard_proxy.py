"""The guard as a proxy: it carries what is allowed faithfully, within budgets, and ends what hangs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack

import pytest
from tests.fetcher.guarding import PUBLIC, Door, Site, a_client, a_guard, a_site

from reelhaul_fetcher.guard.proxy import Limits

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"


def with_length(body: bytes) -> bytes:
    """An answer whose end is told by its length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes, size: int = 70_000) -> bytes:
    """An answer in chunks of *size*."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def get(door: Door, site: Site, path: str = "/", method: str = "GET", *fields: str, body: bytes = b""):
    """Ask the public site through the guard."""
    return await door.ask(method, f"http://{PUBLIC}:{site.port}{path}", *fields, body=body)


async def tunnelled(door: Door, site: Site, path: str) -> bytes:
    """The bytes of an answer that comes through a tunnel, up to its end."""
    async with a_client(door.port) as client:
        connected = await client.ask("CONNECT", f"{PUBLIC}:{site.port}", pass_=door.pass_)
        assert connected.status == 200
        await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.writer.write_eof()
        return await client.reader.read()


async def test_large_bodies_arrive_whole():
    """Long bodies arrive byte for byte, by length, in chunks, by the connection's end, and in tunnels."""
    body = os.urandom(1 << 20) * 24 + b"end"
    digest = hashlib.sha256(body).digest()
    async with a_site() as site, a_guard() as door:
        site.answers = {
            "/length": with_length(body),
            "/chunks": in_chunks(body),
            "/close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
        }
        site.closing = {"/close"}
        for path in site.answers:
            answer = await get(door, site, path)
            assert hashlib.sha256(answer.body).digest() == digest, path
            through = await tunnelled(door, site, path)
            assert through == site.answers[path]
        sent = 2 * sum(map(len, site.answers.values()))
        assert door.account.ingress_bytes == sent


async def test_kept_after_every_framing():
    """The connection can be used again after each kind of answer that has an end of its own."""
    async with a_site() as site, a_guard() as door:
        site.answers = {
            "/chunks": CHUNKED,
            "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
            "/same": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
            "/early": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + with_length(b"late"),
        }
        async with a_client(door.port) as client:
            bodies = []
            for path in ["/chunks", "/none", "/early", "/"]:
                method = "HEAD" if path == "/none" else "GET"
                target = f"http://{PUBLIC}:{site.port}{path}"
                bodies.append((await client.ask(method, target, pass_=door.pass_)).body)
            same = await client.ask("HEAD", f"http://{PUBLIC}:{site.port}/same", pass_=door.pass_)
    assert bodies == [b"hello, world", b"", b"late", b"ok"]
    assert (same.status, same.fields["content-length"]) == (304, "99")
    assert site.accepted == 1


async def test_request_bodies():
    """Bodies of requests reach the site whole, with a length or in chunks, invited or not."""
    body = os.urandom(3 << 20)
    async with a_site() as site, a_guard() as door:
        assert (await get(door, site, "/", "POST", "Content-Length: 0")).status == 200
        assert (await get(door, site, "/", "POST", f"Content-Length: {len(body)}", body=body)).status == 200
        chunked = b"3\r\nabc\r\n0\r\n\r\n"
        assert (await get(door, site, "/", "POST", "Transfer-Encoding: chunked", body=chunked)).status == 200
        async with a_client(door.port) as client:
            target = f"http://{PUBLIC}:{site.port}/"
            fields = ["Expect: 100-continue", "Content-Length: 2"]
            invited = await client.ask("POST", target, *fields, pass_=door.pass_)
            assert invited.status == 100
            await client.send(b"ab")
            assert (await client.answer()).status == 200
    assert site.bodies == [b"", body, chunked, b"ab"]
    assert b"Content-Length: 0\r\n" in site.heads[0]


async def test_kept_connection_that_the_site_closed():
    """A kept connection that the site closes between requests is replaced unnoticed."""
    async with a_site() as site, a_guard() as door:
        site.closing = {"/bye"}
        async with a_client(door.port) as client:
            for path in ("/bye", "/", "/bye", "/"):
                answer = await client.ask("GET", f"http://{PUBLIC}:{site.port}{path}", pass_=door.pass_)
                assert answer.status == 200
    assert site.accepted == 3


async def test_old_client():
    """Python's http.client asks for tunnels as HTTP/1.0, and such clients are closed after each answer."""
    async with a_site() as site, a_guard() as door, a_client(door.port) as client:
        target = f"http://{PUBLIC}:{site.port}/"
        await client.send(
            f"GET {target} HTTP/1.0\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n".encode()
        )
        answer = await client.answer()
        assert (answer.status, answer.body, answer.fields["connection"]) == (200, b"ok", "close")
        assert await client.reader.read() == b""
    assert site.heads[0].startswith(b"GET / HTTP/1.0\r\n")


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_cut_short_is_a_failure(framing):
    """An answer that the site breaks off is broken off here too: nobody takes a half for the whole."""
    whole = with_length(b"x" * 200_000) if framing == "length" else in_chunks(b"x" * 200_000)
    async with a_site() as site, a_guard() as door:
        site.answers["/half"] = whole[:100_000]
        site.closing = {"/half"}
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await get(door, site, "/half")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"ICY 200 OK\r\n\r\n", "answer-status-line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "answer-length"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", "answer-head-size"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "closed"),
    ],
)
async def test_site_without_sense(answer, why):
    """A site that answers nothing that can be read is a 502 that says so."""
    async with a_site() as site, a_guard() as door:
        site.answers["/"] = answer
        site.closing = {"/"}
        said = await get(door, site)
    assert (said.status, said.failure) == (502, why)


async def test_sites_that_do_not_answer():
    """A name that does not exist and a port where nobody listens are failures, not refusals."""
    async with a_guard({"two.test": [PUBLIC, PUBLIC]}) as door:
        unknown = await door.ask("CONNECT", "unknown.test:443")
        assert (unknown.status, unknown.failure) == (502, "unresolved")
        closed = await door.ask("CONNECT", "two.test:1")
        assert (closed.status, closed.failure) == (502, "connect-failed")
        assert not door.account.refusals


async def test_next_address_is_tried():
    """Where the first of a name's addresses does not answer, the next one is asked."""
    names = {"two.test": ["127.0.0.4", PUBLIC]}
    async with a_site() as site, a_guard(names, allow_networks=["127.0.0.2/32", "127.0.0.4/32"]) as door:
        assert (await door.ask("GET", f"http://two.test:{site.port}/")).status == 200


@pytest.mark.parametrize("way", ["length", "tunnel"])
async def test_byte_budget(way):
    """A pass carries no more bytes than its limit; then it is cut, and answers why."""
    limit = 6 << 20
    async with a_site() as site, a_guard(byte_limit=limit) as door:
        site.answers["/"] = with_length(b"x" * (12 << 20))
        async with a_client(door.port) as client:
            target = f"{PUBLIC}:{site.port}"
            if way == "tunnel":
                await client.ask("CONNECT", target, pass_=door.pass_)
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
            else:
                line = f"GET http://{target}/ HTTP/1.1\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n"
                await client.send(line.encode())
            got = await client.until_cut()
        assert 0 < got <= limit
        after = await get(door, site)
        assert (after.status, after.why) == (403, "byte-budget")
        assert ("", "byte-budget") in door.account.refusals


async def test_budget_just_met():
    """What fits the limit exactly passes."""
    async with a_site() as site, a_guard() as door:
        await get(door, site)
        used = door.account.ingress_bytes + door.account.egress_bytes
    async with a_site(port=site.port) as site, a_guard(byte_limit=used) as door:
        assert (await get(door, site)).status == 200
        assert (await get(door, site)).why == "byte-budget"


async def test_time_budget():
    """When a pass's time is over its transfers are cut, and what follows is told why."""
    async with a_site() as site, a_guard(seconds=0.3) as door:
        site.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
        site.hanging = {"/"}
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await get(door, site)
        after = await get(door, site)
        assert (after.status, after.why) == (403, "time-budget")
        assert next(iter(door.account.refusals)) == ("", "time-budget")


async def test_connection_cap():
    """A pass holds so many connections and no more; one that ends makes room."""
    async with a_site() as site, a_guard(limits=Limits(connections_per_pass=2)) as door:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                client = await stack.enter_async_context(a_client(door.port))
                await client.ask("CONNECT", f"{PUBLIC}:{site.port}", pass_=door.pass_)
            refused = await get(door, site)
            assert (refused.status, refused.failure) == (503, "connections")
        if ending := set(door.account.connections):
            await asyncio.wait(ending, timeout=5)
        assert (await get(door, site)).status == 200


async def test_idle_tunnel():
    """A tunnel in which nothing moves is ended."""
    async with (
        a_site() as site,
        a_guard(limits=Limits(idle_seconds=0.2)) as door,
        a_client(door.port) as client,
    ):
        await client.ask("CONNECT", f"{PUBLIC}:{site.port}", pass_=door.pass_)
        assert await client.until_cut() == 0


async def test_silent_client():
    """Who does not say whose connection it is, or says it byte by byte, is not waited for."""
    limits = Limits(greeting_seconds=0.2, idle_seconds=2)
    async with a_guard(limits=limits) as door, a_client(door.port) as client:
        await client.send(b"GET http://")
        assert await client.until_cut() == 0


async def test_endless_head():
    """A head that does not end is refused at a fixed size."""
    async with a_guard() as door, a_client(door.port) as client:
        await client.send(b"GET http://a.test/ HTTP/1.1\r\nX: " + b"y" * 80_000)
        answer = await client.answer()
    assert (answer.status, answer.why) == (400, "head-size")


async def test_slow_reader_holds_up_nobody():
    """A client that does not read stops its own transfer only, and the guard does not buffer it."""
    async with a_site() as site, a_guard() as door, a_client(door.port) as slow:
        site.answers["/big"] = with_length(b"x" * (64 << 20))
        await slow.ask("CONNECT", f"{PUBLIC}:{site.port}", pass_=door.pass_)
        await slow.send(b"GET /big HTTP/1.1\r\n\r\n")
        assert await slow.reader.read(1)
        assert (await get(door, site)).status == 200
        assert door.account.ingress_bytes < 48 << 20


async def test_refusals_are_bounded():
    """A page full of forbidden addresses leaves the latest refusals and their number."""
    async with a_guard() as door:
        for number in range(70):
            await door.ask("GET", f"http://10.0.0.{number}/")
        assert len(door.account.refusals) == 64
        assert door.account.refusals[-1] == ("10.0.0.69", "private")
        assert door.account.refusal_count == 70
