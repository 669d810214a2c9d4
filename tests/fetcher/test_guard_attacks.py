"""The attack table: each road inward ends at the guard's own decision, and its allowed twin passes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tests.fetcher.guarding import CONNECTED, PUBLIC, Answer, Door, Site, a_client, a_guard, a_site, two_sites
from tests.fetcher.test_guard_heads import SMUGGLED

from reelhaul_fetcher.guard.dialer import system_resolver

NAMES = {
    "public.test": [PUBLIC],
    "inside.test": ["127.0.0.1"],
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
    "inside.test": "loopback",
    "INSIDE.test": "loopback",
    "mixed.test": "loopback",
    "mixed6.test": "loopback",
    "metadata.test": "metadata",
    "metadata6.test": "metadata",
    "mapped.test": "loopback",
    "private.test": "private",
    "scoped.test": "link-local",
}
TWINS = [PUBLIC, f"[::ffff:{PUBLIC}]", "[::ffff:7f00:2]", "public.test", "Public.TEST"]


@dataclass
class World:
    """A public site and, on the same port, one inside; between them and us a guard."""

    door: Door
    site: Site
    inside: Site

    async def ask(self, method: str, host: str) -> Answer:
        """Ask for *host* by a tunnel or by an absolute target."""
        if method == "CONNECT":
            return await self.door.ask("CONNECT", f"{host}:{self.site.port}")
        return await self.door.ask(method, f"http://{host}:{self.site.port}/")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with two_sites() as (site, inside), a_guard(NAMES) as door:
        CONNECTED.clear()
        yield World(door, site, inside)


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
@pytest.mark.parametrize(("host", "why"), ATTACKS.items())
async def test_attack(world, method, host, why):
    """What leads inward is refused with a word for it, recorded, and nothing is sent, not even a SYN."""
    answer = await world.ask(method, host)
    assert (answer.status, answer.why) == (403, why)
    assert list(world.door.account.refusals) == [(host.lower(), why)]
    assert {address for address in CONNECTED if address[1] != world.door.port} == set()
    assert world.inside.accepted == world.site.accepted == 0


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
@pytest.mark.parametrize("host", TWINS)
async def test_allowed_twin(world, method, host):
    """The same request for what is allowed passes, and goes to the address that was checked."""
    answer = await world.ask(method, host)
    assert (answer.status, answer.why) == (200, "")
    assert (PUBLIC, world.site.port) in CONNECTED
    assert not world.door.account.refusals


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_ports_of_public_addresses(method):
    """A public address is not reached on ports that are not the web's; refused before connecting."""
    CONNECTED.clear()
    async with a_guard({"far.test": ["8.8.8.8"]}) as door:
        target = "far.test:22" if method == "CONNECT" else "http://far.test:22/"
        answer = await door.ask(method, target)
    assert (answer.status, answer.why) == (403, "port")
    assert ("8.8.8.8", 22) not in CONNECTED


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_rebinding(method):
    """A name that changes between look-ups gains nothing: each request looks it up once and goes there."""
    turns = iter([[PUBLIC], ["127.0.0.1"], [PUBLIC]])

    async def turning(host: str) -> list[str]:
        return next(turns)

    async with two_sites() as (site, inside), a_guard(turning) as door:
        CONNECTED.clear()
        world = World(door, site, inside)
        statuses = [(await world.ask(method, "turning.test")).status for _ in range(3)]
        reached = [host for host, port in CONNECTED if port == site.port]
    assert statuses == [200, 403, 200]
    assert reached == [PUBLIC, PUBLIC]
    assert inside.accepted == 0


async def test_keep_alive_host_switch(world):
    """On a kept connection each request is judged by itself: the third may not go where it wants."""
    async with a_client(world.door.port) as client:
        for path in ("/a", "/b"):
            target = f"http://public.test:{world.site.port}{path}"
            assert (await client.ask("GET", target, pass_="x:secret")).status == 200
        answer = await client.ask("GET", f"http://inside.test:{world.site.port}/c", pass_="x:secret")
    assert (answer.status, answer.why) == (403, "loopback")
    assert world.site.accepted == 1
    assert [head.split(b" ")[1] for head in world.site.heads] == [b"/a", b"/b"]
    assert world.inside.accepted == 0


async def test_kept_name_that_turns(world):
    """A kept connection stays at its site; asking another site and coming back is looked up anew."""
    async with a_client(world.door.port) as client:
        for host in ("public.test", PUBLIC, "public.test"):
            target = f"http://{host}:{world.site.port}/"
            assert (await client.ask("GET", target, pass_="x:secret")).status == 200
    assert world.site.accepted == 3


async def test_host_field_lies(world):
    """The target says where to go; a Host field that says otherwise is replaced."""
    answer = await world.door.ask("GET", f"http://public.test:{world.site.port}/")
    assert answer.status == 200
    assert f"\r\nHost: public.test:{world.site.port}\r\n".encode() in world.site.heads[0]
    assert b"ignored.test" not in world.site.heads[0]
    assert b"Proxy-" not in world.site.heads[0]


@pytest.mark.parametrize("head", SMUGGLED.values(), ids=SMUGGLED)
async def test_smuggling(world, head):
    """A request that could be read in two ways is answered 400, and no site hears of it."""
    async with a_client(world.door.port) as client:
        await client.send(head.replace(b"a.test", PUBLIC.encode()))
        client.writer.write_eof()
        answer = await client.answer()
        assert await client.reader.read() == b""
    assert answer.status == 400
    assert answer.why
    assert world.site.accepted == world.inside.accepted == 0


async def test_pipelined_request_is_judged(world):
    """A second request sent along with the first is judged like any other."""
    port = world.site.port
    one = f"GET http://public.test:{port}/ HTTP/1.1\r\nProxy-Authorization: Basic eDpzZWNyZXQ=\r\n\r\n"
    two = one.replace("public", "inside")
    async with a_client(world.door.port) as client:
        await client.send((one + two).encode())
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 403
    assert world.inside.accepted == 0


async def test_request_in_a_body_stays_a_body(world):
    """What a body says is passed on as a body and never read as a request."""
    inner = f"GET http://inside.test:{world.site.port}/ HTTP/1.1\r\n\r\n".encode()
    target = f"http://public.test:{world.site.port}/"
    answer = await world.door.ask("POST", target, f"Content-Length: {len(inner)}", body=inner)
    assert answer.status == 200
    assert world.site.bodies == [inner]
    assert world.inside.accepted == 0


@pytest.mark.parametrize("body", [b"5\nhello0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n", b"zz\r\n\r\n"])
async def test_smuggling_in_chunks(world, body):
    """A chunked body that could be read in two ways ends the request; the site gets no end of it."""
    target = f"http://public.test:{world.site.port}/"
    answer = await world.door.ask("POST", target, "Transfer-Encoding: chunked", body=body)
    assert (answer.status, answer.why) == (400, "chunk")
    assert world.site.bodies == []


async def test_upgrade_and_methods(world):
    """WebSockets and methods that no fetch needs are answered plainly."""
    target = f"http://public.test:{world.site.port}/"
    upgrade = await world.door.ask("GET", target, "Connection: Upgrade", "Upgrade: websocket")
    assert (upgrade.status, upgrade.why) == (501, "upgrade")
    for method in ("PUT", "DELETE", "TRACE", "OPTIONS", "PROPFIND"):
        answer = await world.door.ask(method, target)
        assert (answer.status, answer.why) == (405, "method")
        assert answer.fields["allow"] == "GET, HEAD, POST, CONNECT"
    assert world.site.accepted == 0


async def test_site_cannot_speak_as_the_guard(world):
    """A site that writes the guard's own field or asks for credentials fools nobody."""
    world.site.answers["/"] = (
        b"HTTP/1.1 403 Refused by the guard\r\nX-Reelhaul-Guard: loopback\r\n"
        b"Proxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
    )
    answer = await world.door.ask("GET", f"http://public.test:{world.site.port}/")
    assert (answer.status, answer.why) == (403, "")
    assert "proxy-authenticate" not in answer.fields
    assert not world.door.account.refusals


@pytest.mark.parametrize("pass_", ["", "x:", "x:wrong", "y:secret", ":", "x:secret2", "X:secret"])
async def test_no_pass(world, pass_):
    """Without an open pass nothing is carried, and the answer does not tell what was wrong."""
    async with a_client(world.door.port) as client:
        answer = await client.ask("GET", f"http://public.test:{world.site.port}/", pass_=pass_)
    assert (answer.status, answer.why) == (407, "pass")
    assert answer.fields["proxy-authenticate"] == 'Basic realm="reelhaul"'
    assert world.site.accepted == 0


async def test_pass_switch_on_a_connection(world):
    """A connection belongs to the pass that opened it, so that budgets cannot be mixed."""
    world.door.proxy.open("y", "other", 0, 0)
    target = f"http://public.test:{world.site.port}/"
    async with a_client(world.door.port) as client:
        assert (await client.ask("GET", target, pass_="x:secret")).status == 200
        assert (await client.ask("GET", target, pass_="y:other")).status == 407


async def test_closed_pass(world):
    """A pass that was closed opens nothing more, and its tunnels are cut."""
    async with a_client(world.door.port) as client:
        await client.ask("CONNECT", f"{PUBLIC}:{world.site.port}", pass_="x:secret")
        world.door.proxy.close("x")
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    assert (await world.door.ask("GET", f"http://{PUBLIC}:{world.site.port}/")).status == 407


async def test_names_of_this_machine():
    """A name that this machine's own name service leads inward is refused like any other."""
    async with a_site("127.0.0.1") as inside, a_guard(system_resolver) as door:
        answer = await door.ask("GET", f"http://localhost:{inside.port}/")
    assert (answer.status, answer.why) == (403, "loopback")
    assert inside.accepted == 0


async def test_slow_name_service():
    """A name that is never resolved costs its own request and no other."""
    asked = asyncio.Event()

    async def never(host: str) -> list[str]:
        if host == "slow.test":
            asked.set()
            await asyncio.Event().wait()
        return [PUBLIC]

    async with a_site() as site, a_guard(never) as door:
        slow = asyncio.create_task(door.ask("GET", "http://slow.test/"))
        await asked.wait()
        assert (await door.ask("GET", f"http://quick.test:{site.port}/")).status == 200
        assert not slow.done()
        slow.cancel()
    assert threading.active_count() < 50
