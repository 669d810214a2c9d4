"""Behind an upstream proxy, which alone knows names, the guard still refuses what it can see to be inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tests.fetcher.guarding import CONNECTED, PUBLIC, Answer, Door, Site, a_client, a_guard, a_site

from reelhaul_fetcher.guard.dialer import Upstream


@dataclass
class World:
    """A guard without allowed networks; behind it, as upstream proxy, another one that reaches the site."""

    door: Door
    upstream: Door
    site: Site


@pytest.fixture
async def world() -> AsyncIterator[World]:
    beyond = {"far.test": [PUBLIC], "turned.test": [PUBLIC]}
    here = {"inside.test": ["127.0.0.1"], "turned.test": ["10.0.0.1"], "metadata.test": ["169.254.169.254"]}
    async with a_site() as site, a_guard(beyond) as upstream:
        url = f"http://x:secret@127.0.0.1:{upstream.port}"
        async with a_guard(here, upstream=url, allow_networks=[], ports=[site.port]) as door:
            yield World(door, upstream, site)


async def ask(world: World, method: str, host: str) -> Answer:
    """Ask for *host* by a tunnel or an absolute target."""
    place = f"{host}:{world.site.port}"
    return await world.door.ask(method, place if method == "CONNECT" else f"http://{place}/")


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_name_that_only_the_upstream_knows(world, method):
    """A name that does not resolve here is passed on, with the upstream's credentials, not the pass's."""
    answer = await ask(world, method, "far.test")
    assert (answer.status, answer.why) == (200, "")
    assert world.site.accepted == 1
    assert not any(b"roxy-" in head for head in world.site.heads)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "loopback"),
        (PUBLIC, "loopback"),
        ("[::ffff:10.0.0.1]", "private"),
        ("2130706433", "number"),
        ("169.254.169.254", "metadata"),
        ("inside.test", "loopback"),
        ("turned.test", "private"),
        ("metadata.test", "metadata"),
    ],
)
async def test_refused_before_the_upstream(world, method, host, why):
    """Literal addresses inside, and names that resolve here to such, never reach the upstream proxy."""
    CONNECTED.clear()
    answer = await ask(world, method, host)
    assert (answer.status, answer.why) == (403, why)
    assert ("127.0.0.1", world.upstream.port) not in CONNECTED


async def test_port_of_an_unknown_name(world):
    """Ports are judged also where the address is not known here."""
    answer = await world.door.ask("CONNECT", "far.test:22")
    assert (answer.status, answer.why) == (403, "port")


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_upstream_that_refuses_us(world, method):
    """Wrong credentials upstream are a failure of ours: the client is not asked for its own again."""
    url = f"http://x:wrong@127.0.0.1:{world.upstream.port}"
    async with a_guard(upstream=url, allow_networks=[], ports=[world.site.port]) as door:
        target = f"far.test:{world.site.port}"
        answer = await door.ask(method, target if method == "CONNECT" else f"http://{target}/")
    assert (answer.status, answer.failure) == (502, "upstream-407")


async def test_upstream_that_refuses_the_site(world):
    """A tunnel that the upstream proxy refuses is a failure that names its answer."""
    answer = await ask(world, "CONNECT", "unknown.test")
    assert (answer.status, answer.failure) == (502, "upstream-502")


async def test_upstream_that_is_away():
    """No upstream proxy, no way out: the guard does not go around it."""
    async with a_site() as site, a_guard(upstream="http://127.0.0.1:1") as door:
        answer = await door.ask("GET", f"http://{PUBLIC}:{site.port}/")
    assert (answer.status, answer.failure) == (502, "upstream-away")
    assert site.accepted == 0


async def test_kept_connections_through_the_upstream(world):
    """Several requests on one connection pass the upstream proxy as well."""
    async with a_client(world.door.port) as client:
        for _ in range(3):
            target = f"http://far.test:{world.site.port}/"
            assert (await client.ask("GET", target, pass_=world.door.pass_)).status == 200


@pytest.mark.parametrize(
    "url", ["https://p:1", "socks5://p:1", "p:1", "http://", "http://p:1/path", "http://p:99999", ""]
)
def test_wrong_upstream(url):
    """What is no HTTP proxy is refused when it is configured, without showing what may be a password."""
    with pytest.raises(ValueError, match=r"upstream proxy|[Pp]ort"):
        Upstream.of(url)
