"""Reverse proxies: what the gateway believes of X-Forwarded-For, -Proto and -Host, and from whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import httpx
import pytest
from pydantic import ValidationError
from tests.gateway.fake_services import GatewayHarness, running_gateway

from reelhaul_gateway.request_head import TrustedProxies
from reelhaul_gateway.settings import Settings

PROXIES = TrustedProxies(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))
FORWARDED = {
    "x-forwarded-for": "192.0.2.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "reel.example",
}


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A gateway that trusts a proxy on this machine."""
    async with running_gateway(gateway_trusted_proxies="127.0.0.1/32,10.0.0.0/8") as running:
        yield running


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "192.0.2.7, 10.0.0.3", "192.0.2.7"),
        ("::ffff:10.1.2.3", "192.0.2.7,10.0.0.3 , 10.0.0.4", "192.0.2.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "192.0.2.7:4711", "192.0.2.7"),
        ("127.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("127.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        # The client itself sent the left part.
        ("127.0.0.1", "203.0.113.1, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "127.0.0.1, 192.0.2.7, 10.0.0.3", "192.0.2.7"),
        # All are proxies: the farthest of them.
        ("127.0.0.1", "10.0.0.9, 10.0.0.3", "10.0.0.9"),
        # Malformed: the last address before it.
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7, , 10.0.0.3", "10.0.0.3"),
        ("127.0.0.1", "192.0.2.7:port", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.256", "127.0.0.1"),
        ("127.0.0.1", "fe80::1%eth0", "127.0.0.1"),
        ("127.0.0.1", "[2001:db8::7", "127.0.0.1"),
        ("127.0.0.1", "1" * 60_000, "127.0.0.1"),
        ("127.0.0.1", "10.0.0.3," * 7_000 + "10.0.0.4", "10.0.0.3"),
    ],
)
def test_client_behind_proxies(peer: str, header: str, client: str) -> None:
    """It is the last address in X-Forwarded-For that is no trusted proxy's."""
    assert PROXIES.trusts(peer)
    assert PROXIES.find_client(peer, [header.encode()]) == client


def test_addresses_of_several_headers_are_one_list() -> None:
    """Proxies may add a header of their own instead of an element."""
    assert PROXIES.find_client("127.0.0.1", [b"203.0.113.1", b"192.0.2.7", b"10.0.0.3"]) == "192.0.2.7"


@pytest.mark.parametrize("peer", ["192.0.2.7", "127.0.0.2", "2001:db8::1", "", "unix"])
def test_others_are_not_trusted(peer: str) -> None:
    """Neither other addresses nor peers without one are proxies; the trusted ones are in the table above."""
    assert not PROXIES.trusts(peer)


async def test_trusted_proxy_reports_client_scheme_and_host(client, harness) -> None:
    """Services get the client's address, and browsers the header for TLS."""
    response = await client.get("/v1/jobs/018f", headers=FORWARDED)
    assert harness.jobs.metadata[0]["x-forwarded-for"] == "192.0.2.7"
    assert response.headers["strict-transport-security"] == "max-age=31536000"


async def test_page_on_the_name_of_the_proxy_is_of_the_own_origin(client) -> None:
    """Origin is compared with the host that the client named, and with that alone."""
    own = FORWARDED | {"origin": "https://reel.example", "sec-fetch-site": "same-origin"}
    assert (await client.post("/v1/jobs", json={}, headers=own)).status_code == 200
    other = FORWARDED | {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert (await client.post("/v1/jobs", json={}, headers=other)).status_code == 400
    unnamed = {"origin": "https://reel.example", "sec-fetch-site": "same-origin"}
    assert (await client.post("/v1/jobs", json={}, headers=unnamed)).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"x-forwarded-host": "reel.example:8443"}, 200),
        ({"x-forwarded-host": "spoofed.example, reel.example"}, 200),
        ({"x-forwarded-host": "reel.example/path"}, 400),
        ({"x-forwarded-host": "[reel"}, 400),
        # A page that is served by DNS rebinding sets any header but Host.
        ({"x-forwarded-host": "localhost", "host": "evil.example"}, 400),
        ({"x-forwarded-proto": "gopher"}, 200),
    ],
)
async def test_forwarded_host_does_not_replace_the_check_of_host(client, headers, status) -> None:
    """Both must be valid, and Host is local while REELHAUL_AUTH=none."""
    response = await client.get("/v1/jobs/018f", headers=headers)
    assert response.status_code == status
    assert "strict-transport-security" not in response.headers


async def test_headers_of_others_are_ignored() -> None:
    """Without the setting the client is the peer, and the connection is what it is."""
    async with running_gateway() as harness, httpx.AsyncClient(trust_env=False) as client:
        own = FORWARDED | {"origin": "https://reel.example"}
        assert (await client.post(f"{harness.url}/v1/jobs", json={}, headers=own)).status_code == 400
        response = await client.get(f"{harness.url}/v1/jobs/018f", headers=FORWARDED)
        assert harness.jobs.metadata[0]["x-forwarded-for"] == "127.0.0.1"
        assert "strict-transport-security" not in response.headers


@pytest.mark.parametrize("networks", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "10.0.0.0/8;127.0.0.1"])
def test_wrong_networks_are_refused_at_the_start(networks: str) -> None:
    """The setting is a list of CIDR networks; host bits are an error."""
    assert len(Settings(gateway_trusted_proxies="10.0.0.0/8, ::1").gateway_trusted_proxies) == 2
    with pytest.raises(ValidationError):
        Settings(gateway_trusted_proxies=networks)


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("", "media.example", 400),
        ("media.example", "media.example", 200),
        ("media.example", "MEDIA.example:8443", 200),
        ("media.example", "evil.example", 400),
        ("media.example", "www.media.example", 400),
        ("*.media.example, other.example", "www.media.example", 200),
        ("*.media.example, other.example", "other.example:80", 200),
        ("*.media.example", "media.example", 400),
        ("*.media.example", "evilmedia.example", 400),
        ("media.example", "127.0.0.1", 200),
        ("media.example", "[::1]:80", 200),
        ("media.example", "localhost", 200),
    ],
)
async def test_allowed_hosts(allowed: str, host: str, status: int) -> None:
    """Without authentication Host is an IP address, localhost or one of the setting."""
    settings = {"gateway_allowed_hosts": allowed, "gateway_trusted_proxies": "127.0.0.1/32"}
    async with running_gateway(**settings) as harness, httpx.AsyncClient() as client:
        response = await client.get(f"{harness.url}/v1/jobs/018f", headers={"host": host})
        forwarded = await client.get(f"{harness.url}/v1/jobs/018f", headers={"x-forwarded-host": host})
    assert response.status_code == status
    assert forwarded.status_code == (status if allowed else 200)
    if status == 400:
        assert "REELHAUL_GATEWAY_ALLOWED_HOSTS" in response.text


@pytest.mark.parametrize("hosts", ["https://media.example", "media.example:443", "*", "*example", "a b"])
def test_wrong_hosts_are_refused_at_the_start(hosts: str) -> None:
    """The setting is a list of names, with * for a whole first label only."""
    assert Settings(gateway_allowed_hosts="a.example, *.B.example").gateway_allowed_hosts == (
        "a.example",
        "*.b.example",
    )
    with pytest.raises(ValidationError, match="is not a host name"):
        Settings(gateway_allowed_hosts=hosts)
