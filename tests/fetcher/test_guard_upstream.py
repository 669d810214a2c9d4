"""With an upstream proxy that resolves names, the guard still refuses internal addresses that it can see."""

from __future__ import annotations

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
    running_site,
)

from reelhaul_fetcher.guard.dialer import Upstream


@dataclass
class Harness:
    """A guard without allowed networks; its upstream proxy is another guard, which reaches the site."""

    guard: InProcessGuard
    upstream: InProcessGuard
    site: Site


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    upstream_names = {"far.test": [PUBLIC], "rebound.test": [PUBLIC]}
    names = {
        "internal.test": ["127.0.0.1"],
        "rebound.test": ["10.0.0.1"],
        "metadata.test": ["169.254.169.254"],
    }
    async with running_site() as site, in_process_guard(upstream_names) as upstream:
        url = f"http://x:secret@127.0.0.1:{upstream.port}"
        async with in_process_guard(names, upstream=url, allow_networks=[], ports=[site.port]) as guard:
            yield Harness(guard, upstream, site)


async def request(harness: Harness, method: str, host: str) -> Response:
    """Request *host* through a tunnel or by an absolute target."""
    authority = f"{host}:{harness.site.port}"
    return await harness.guard.request(method, authority if method == "CONNECT" else f"http://{authority}/")


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_name_that_only_the_upstream_knows(harness, method):
    """A name that does not resolve here is forwarded, with the upstream's credentials, not the session's."""
    response = await request(harness, method, "far.test")
    assert (response.status, response.refusal) == (200, "")
    assert harness.site.accepted == 1
    assert not any(b"roxy-" in head for head in harness.site.heads)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "loopback"),
        (PUBLIC, "loopback"),
        ("[::ffff:10.0.0.1]", "private"),
        ("2130706433", "number"),
        ("169.254.169.254", "metadata"),
        ("internal.test", "loopback"),
        ("rebound.test", "private"),
        ("metadata.test", "metadata"),
    ],
)
async def test_refused_before_the_upstream(harness, method, host, reason):
    """Internal addresses, and names that resolve to one here, never reach the upstream proxy."""
    CONNECTED.clear()
    response = await request(harness, method, host)
    assert (response.status, response.refusal) == (403, reason)
    assert ("127.0.0.1", harness.upstream.port) not in CONNECTED


async def test_port_of_an_unknown_name(harness):
    """The port is checked even if the name does not resolve here."""
    response = await harness.guard.request("CONNECT", "far.test:22")
    assert (response.status, response.refusal) == (403, "port")


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_wrong_upstream_credentials(harness, method):
    """Wrong upstream credentials are a failure of the guard: the client is not challenged again."""
    url = f"http://x:wrong@127.0.0.1:{harness.upstream.port}"
    async with in_process_guard(upstream=url, allow_networks=[], ports=[harness.site.port]) as guard:
        target = f"far.test:{harness.site.port}"
        response = await guard.request(method, target if method == "CONNECT" else f"http://{target}/")
    assert (response.status, response.failure) == (502, "upstream-407")


async def test_upstream_that_refuses_the_site(harness):
    """A tunnel that the upstream proxy refuses is a failure that names its status."""
    response = await request(harness, "CONNECT", "unknown.test")
    assert (response.status, response.failure) == (502, "upstream-502")


async def test_upstream_unavailable():
    """If the upstream proxy is down the guard does not bypass it."""
    async with running_site() as site, in_process_guard(upstream="http://127.0.0.1:1") as guard:
        response = await guard.request("GET", f"http://{PUBLIC}:{site.port}/")
    assert (response.status, response.failure) == (502, "upstream-away")
    assert site.accepted == 0


async def test_kept_connections_through_the_upstream(harness):
    """Several requests on one connection work through the upstream proxy as well."""
    async with proxy_client(harness.guard.port) as client:
        for _ in range(3):
            target = f"http://far.test:{harness.site.port}/"
            assert (await client.request("GET", target, credentials=harness.guard.credentials)).status == 200


@pytest.mark.parametrize(
    "url", ["https://p:1", "socks5://p:1", "p:1", "http://", "http://p:1/path", "http://p:99999", ""]
)
def test_wrong_upstream(url):
    """An invalid proxy URL is rejected when it is configured, without showing what may be a password."""
    with pytest.raises(ValueError, match=r"upstream proxy|[Pp]ort"):
        Upstream.parse(url)
