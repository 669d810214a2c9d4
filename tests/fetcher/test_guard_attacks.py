"""Attack table: the guard refuses every form of an internal address, and allows the public counterpart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tests.fetcher.guard_harness import (
    CONNECTED,
    PUBLIC,
    InProcessGuard,
    Response,
    Site,
    in_process_guard,
    proxy_client,
    public_and_internal_site,
    running_site,
)
from tests.fetcher.test_guard_heads import AMBIGUOUS_REQUESTS

from reelhaul_fetcher.guard.dialer import system_resolver

NAMES = {
    "public.test": [PUBLIC],
    "internal.test": ["127.0.0.1"],
    "mixed.test": [PUBLIC, "127.0.0.1"],
    "mixed6.test": ["::1", PUBLIC],
    "metadata.test": ["169.254.169.254"],
    "metadata6.test": ["fd00:ec2::254"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "private.test": ["10.1.2.3"],
    "scoped.test": ["fe80::1%lo"],
}
ATTACKS = {
    "127.0.0.1": "loopback",
    "127.0.0.3": "loopback",
    "127.0.0.2.": "number",
    "2130706433": "number",
    "2130706434": "number",
    "0x7f.0.0.1": "number",
    "0177.0.0.1": "number",
    "127.1": "number",
    "0": "number",
    "0.0.0.0": "unspecified",
    "[::1]": "loopback",
    "[::]": "unspecified",
    "[::ffff:127.0.0.1]": "loopback",
    "[::ffff:7f00:1]": "loopback",
    "[::127.0.0.1]": "reserved",
    "[64:ff9b::7f00:1]": "loopback",
    "[64:ff9b:1::7f00:1]": "nat64",
    "[2002:7f00:1::]": "loopback",
    "[2001:0:7f00:1::]": "loopback",
    "10.0.0.1": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "shared",
    "169.254.169.254": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "[fd00:ec2::254]": "metadata",
    "[::ffff:169.254.169.254]": "metadata",
    "255.255.255.255": "reserved",
    "internal.test": "loopback",
    "INTERNAL.test": "loopback",
    "mixed.test": "loopback",
    "mixed6.test": "loopback",
    "metadata.test": "metadata",
    "metadata6.test": "metadata",
    "mapped.test": "loopback",
    "private.test": "private",
    "scoped.test": "link-local",
}
ALLOWED = [PUBLIC, f"[::ffff:{PUBLIC}]", "[::ffff:7f00:2]", "public.test", "Public.TEST"]


@dataclass
class Harness:
    """A guard in front of a public site and an internal one on the same port."""

    guard: InProcessGuard
    site: Site
    internal: Site

    async def request(self, method: str, host: str) -> Response:
        """Request *host* through a tunnel or by an absolute target."""
        if method == "CONNECT":
            return await self.guard.request("CONNECT", f"{host}:{self.site.port}")
        return await self.guard.request(method, f"http://{host}:{self.site.port}/")


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with public_and_internal_site() as (site, internal), in_process_guard(NAMES) as guard:
        CONNECTED.clear()
        yield Harness(guard, site, internal)


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
@pytest.mark.parametrize(("host", "reason"), ATTACKS.items())
async def test_attack(harness, method, host, reason):
    """An internal destination is refused with its reason and recorded; nothing is sent, not even a SYN."""
    response = await harness.request(method, host)
    assert (response.status, response.refusal) == (403, reason)
    assert list(harness.guard.session.usage.refusals) == [(host.lower(), reason)]
    assert {address for address in CONNECTED if address[1] != harness.guard.port} == set()
    assert harness.internal.accepted == harness.site.accepted == 0


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
@pytest.mark.parametrize("host", ALLOWED)
async def test_allowed_counterpart(harness, method, host):
    """The same request to a public address is forwarded, to the address that was checked."""
    response = await harness.request(method, host)
    assert (response.status, response.refusal) == (200, "")
    assert (PUBLIC, harness.site.port) in CONNECTED
    assert not harness.guard.session.usage.refusals


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_port_of_a_public_address(method):
    """A public address is refused on a port that is not a web port, before connecting."""
    CONNECTED.clear()
    async with in_process_guard({"far.test": ["8.8.8.8"]}) as guard:
        target = "far.test:22" if method == "CONNECT" else "http://far.test:22/"
        response = await guard.request(method, target)
    assert (response.status, response.refusal) == (403, "port")
    assert ("8.8.8.8", 22) not in CONNECTED


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_rebinding(method):
    """DNS rebinding fails: each request resolves the name once and connects to the checked address."""
    dns_answers = iter([[PUBLIC], ["127.0.0.1"], [PUBLIC]])

    async def resolve(host: str) -> list[str]:
        return next(dns_answers)

    async with public_and_internal_site() as (site, internal), in_process_guard(resolve) as guard:
        CONNECTED.clear()
        harness = Harness(guard, site, internal)
        statuses = [(await harness.request(method, "rebinding.test")).status for _ in range(3)]
        reached = [host for host, port in CONNECTED if port == site.port]
    assert statuses == [200, 403, 200]
    assert reached == [PUBLIC, PUBLIC]
    assert internal.accepted == 0


async def test_keep_alive_host_switch(harness):
    """Each request on a kept connection is checked: the third one is refused."""
    async with proxy_client(harness.guard.port) as client:
        for path in ("/a", "/b"):
            target = f"http://public.test:{harness.site.port}{path}"
            assert (await client.request("GET", target, credentials="x:secret")).status == 200
        response = await client.request(
            "GET", f"http://internal.test:{harness.site.port}/c", credentials="x:secret"
        )
    assert (response.status, response.refusal) == (403, "loopback")
    assert harness.site.accepted == 1
    assert [head.split(b" ")[1] for head in harness.site.heads] == [b"/a", b"/b"]
    assert harness.internal.accepted == 0


async def test_return_to_a_kept_site(harness):
    """The connection to a site is not kept across a request to another site: its name is resolved again."""
    async with proxy_client(harness.guard.port) as client:
        for host in ("public.test", PUBLIC, "public.test"):
            target = f"http://{host}:{harness.site.port}/"
            assert (await client.request("GET", target, credentials="x:secret")).status == 200
    assert harness.site.accepted == 3


async def test_wrong_host_field(harness):
    """The target decides where a request goes; a different Host field is replaced."""
    response = await harness.guard.request("GET", f"http://public.test:{harness.site.port}/")
    assert response.status == 200
    assert f"\r\nHost: public.test:{harness.site.port}\r\n".encode() in harness.site.heads[0]
    assert b"ignored.test" not in harness.site.heads[0]
    assert b"Proxy-" not in harness.site.heads[0]


@pytest.mark.parametrize("head", AMBIGUOUS_REQUESTS.values(), ids=AMBIGUOUS_REQUESTS)
async def test_smuggling(harness, head):
    """An ambiguous request is answered 400 and reaches no site."""
    async with proxy_client(harness.guard.port) as client:
        await client.send(head.replace(b"a.test", PUBLIC.encode()))
        client.writer.write_eof()
        response = await client.read_response()
        assert await client.reader.read() == b""
    assert response.status == 400
    assert response.refusal
    assert harness.site.accepted == harness.internal.accepted == 0


async def test_pipelined_request(harness):
    """A second request in the same packet is checked like any other."""
    port = harness.site.port
    first = f"GET http://public.test:{port}/ HTTP/1.1\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n"
    second = first.replace("public", "internal")
    async with proxy_client(harness.guard.port) as client:
        await client.send((first + second).encode())
        assert (await client.read_response()).status == 200
        assert (await client.read_response()).status == 403
    assert harness.internal.accepted == 0


async def test_request_inside_a_body(harness):
    """A body that looks like a request is forwarded as a body."""
    inner = f"GET http://internal.test:{harness.site.port}/ HTTP/1.1\r\n\r\n".encode()
    target = f"http://public.test:{harness.site.port}/"
    response = await harness.guard.request("POST", target, f"Content-Length: {len(inner)}", body=inner)
    assert response.status == 200
    assert harness.site.bodies == [inner]
    assert harness.internal.accepted == 0


@pytest.mark.parametrize("body", [b"5\nhello0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n", b"zz\r\n\r\n"])
async def test_smuggling_in_chunks(harness, body):
    """An ambiguous chunked body ends the request; the site never receives its end."""
    target = f"http://public.test:{harness.site.port}/"
    response = await harness.guard.request("POST", target, "Transfer-Encoding: chunked", body=body)
    assert (response.status, response.refusal) == (400, "chunk")
    assert harness.site.bodies == []


async def test_upgrade_and_methods(harness):
    """WebSocket upgrades and methods that no fetch needs are refused."""
    target = f"http://public.test:{harness.site.port}/"
    upgrade = await harness.guard.request("GET", target, "Connection: Upgrade", "Upgrade: websocket")
    assert (upgrade.status, upgrade.refusal) == (501, "upgrade")
    for method in ("PUT", "DELETE", "TRACE", "OPTIONS", "PROPFIND"):
        response = await harness.guard.request(method, target)
        assert (response.status, response.refusal) == (405, "method")
        assert response.fields["allow"] == "GET, HEAD, POST, CONNECT"
    assert harness.site.accepted == 0


async def test_site_imitates_the_guard(harness):
    """The guard's own fields and a proxy challenge are removed from a site's response."""
    harness.site.responses["/"] = (
        b"HTTP/1.1 403 Refused by the guard\r\nX-Reelhaul-Guard: loopback\r\n"
        b"Proxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
    )
    response = await harness.guard.request("GET", f"http://public.test:{harness.site.port}/")
    assert (response.status, response.refusal) == (403, "")
    assert "proxy-authenticate" not in response.fields
    assert not harness.guard.session.usage.refusals


@pytest.mark.parametrize("credentials", ["", "x:", "x:wrong", "y:secret", ":", "x:secret2", "X:secret"])
async def test_no_valid_credentials(harness, credentials):
    """Without valid credentials nothing is forwarded, and the response does not say what was wrong."""
    async with proxy_client(harness.guard.port) as client:
        response = await client.request(
            "GET", f"http://public.test:{harness.site.port}/", credentials=credentials
        )
    assert (response.status, response.refusal) == (407, "pass")
    assert response.fields["proxy-authenticate"] == 'Basic realm="reelhaul"'
    assert harness.site.accepted == 0


async def test_session_switch_on_a_connection(harness):
    """A connection belongs to one session, so that budgets cannot be mixed."""
    harness.guard.proxy.open_session("y", "other")
    target = f"http://public.test:{harness.site.port}/"
    async with proxy_client(harness.guard.port) as client:
        assert (await client.request("GET", target, credentials="x:secret")).status == 200
        assert (await client.request("GET", target, credentials="y:other")).status == 407


async def test_closed_session(harness):
    """Closing a session cuts its tunnels; its credentials are invalid from then on."""
    async with proxy_client(harness.guard.port) as client:
        await client.request("CONNECT", f"{PUBLIC}:{harness.site.port}", credentials="x:secret")
        harness.guard.proxy.close_session("x")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    assert (await harness.guard.request("GET", f"http://{PUBLIC}:{harness.site.port}/")).status == 407


async def test_system_resolver():
    """A name that the system resolver maps to an internal address is refused."""
    async with running_site("127.0.0.1") as internal, in_process_guard(system_resolver) as guard:
        response = await guard.request("GET", f"http://localhost:{internal.port}/")
    assert (response.status, response.refusal) == (403, "loopback")
    assert internal.accepted == 0


async def test_slow_name_service():
    """A name that is never resolved delays its own request and no other."""
    resolving = asyncio.Event()

    async def resolve(host: str) -> list[str]:
        if host == "slow.test":
            resolving.set()
            await asyncio.Event().wait()
        return [PUBLIC]

    async with running_site() as site, in_process_guard(resolve) as guard:
        slow = asyncio.create_task(guard.request("GET", "http://slow.test/"))
        await resolving.wait()
        assert (await guard.request("GET", f"http://quick.test:{site.port}/")).status == 200
        assert not slow.done()
        slow.cancel()
    assert threading.active_count() < 50
