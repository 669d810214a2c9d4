"""Addresses inside addresses: the rules hold for the IPv4 address that a tunnel or translator leads to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from tests.fetcher.guard_harness import in_process_guard

from reelhaul_fetcher.guard.errors import Refused
from reelhaul_runtime.addresses import Rules, parse_host

METADATA_IPV4 = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.42.42",
    "169.254.0.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
]
METADATA_IPV6 = [
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "fe80::a9fe:a9fe",
    "fe80::a9fe:a9fe%1",
]
EVERYTHING = Rules.parse(["0.0.0.0/0", "::/0"])


def nat64(prefix: str, bits: int, inner: str) -> str:
    """Return the address of *inner* in a NAT64 *prefix* of *bits*, by RFC 6052: bits 64 to 71 are 0."""
    value = int(IPv4Address(inner))
    if bits == 96:
        return str(IPv6Address(int(IPv6Address(prefix)) | value))
    spread = value << (120 - bits - 32)
    high, low = spread >> 56, spread & ((1 << 56) - 1)
    return str(IPv6Address(int(IPv6Address(prefix)) | high << 64 | low))


def sixtofour(inner: str) -> str:
    return str(IPv6Address(int(IPv6Address("2002::")) | int(IPv4Address(inner)) << 80))


def teredo_server(inner: str) -> str:
    client = int(IPv4Address("8.8.8.8")) ^ 0xFFFFFFFF
    return str(IPv6Address(int(IPv6Address("2001::")) | int(IPv4Address(inner)) << 64 | client))


def teredo_client(inner: str) -> str:
    server = int(IPv4Address("8.8.8.8")) << 64
    return str(IPv6Address(int(IPv6Address("2001::")) | server | int(IPv4Address(inner)) ^ 0xFFFFFFFF))


#: Writes an IPv4 address inside another, and the network that such addresses are in.
FORMS = {
    "mapped": (lambda inner: f"::ffff:{inner}", "::ffff:0:0/96"),
    "compatible": (lambda inner: f"::{inner}", "::/96"),
    "translated": (lambda inner: f"::ffff:0:{inner}", "::ffff:0:0:0/96"),
    "NAT64": (lambda inner: nat64("64:ff9b::", 96, inner), "64:ff9b::/96"),
    "6to4": (sixtofour, "2002::/16"),
    "Teredo server": (teredo_server, "2001::/32"),
    "Teredo client": (teredo_client, "2001::/32"),
    "local NAT64 /48": (lambda inner: nat64("64:ff9b:1::", 48, inner), "64:ff9b:1::/48"),
    "local NAT64 /56": (lambda inner: nat64("64:ff9b:1::", 56, inner), "64:ff9b:1::/48"),
    "local NAT64 /64": (lambda inner: nat64("64:ff9b:1::", 64, inner), "64:ff9b:1::/48"),
    "local NAT64 /96": (lambda inner: nat64("64:ff9b:1::", 96, inner), "64:ff9b:1::/48"),
    "ISATAP": (lambda inner: f"2a00::5efe:{inner}", "2a00::/64"),
    "ISATAP, unique": (lambda inner: f"2a00::200:5efe:{inner}", "2a00::/64"),
}
#: Those that lead to a global address when its inner one is global.
PUBLIC_FORMS = ["mapped", "NAT64", "6to4", "Teredo server", "Teredo client", "ISATAP", "ISATAP, unique"]


def refusal(rules: Rules, address: str, port: int = 443) -> str:
    """Return why *rules* refuse *address*; empty if they do not."""
    try:
        rules.check([ip_address(address)], port)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize("inner", METADATA_IPV4)
@pytest.mark.parametrize("form", FORMS)
def test_metadata_inside_an_address(form: str, inner: str) -> None:
    """A metadata address is refused inside any other, whatever network the operator allows."""
    write, network = FORMS[form]
    for rules in (Rules(), Rules.parse([network]), Rules.parse([network, f"{inner}/32"]), EVERYTHING):
        assert refusal(rules, write(inner)) == "metadata"


@pytest.mark.parametrize("address", METADATA_IPV4 + METADATA_IPV6)
def test_metadata_address(address: str) -> None:
    """No allowed network lets a metadata address through."""
    assert refusal(Rules(), address) == refusal(EVERYTHING, address) == "metadata"


@pytest.mark.parametrize("form", PUBLIC_FORMS)
def test_public_address_inside_an_address(form: str) -> None:
    """A global address inside another is allowed as it is by itself, on the same ports."""
    address = FORMS[form][0]("8.8.8.8")
    assert refusal(Rules(), address) == ""
    assert refusal(Rules(), address, 25) == "port"


@pytest.mark.parametrize("inner", ["10.1.2.3", "127.0.0.1", "192.168.0.1", "100.64.0.1"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "mapped"])
def test_private_address_in_an_allowed_network(form: str, inner: str) -> None:
    """An allowed network admits no private address inside, unless that is allowed too."""
    write, network = FORMS[form]
    assert refusal(Rules(), write(inner)) != ""
    assert refusal(Rules.parse([network]), write(inner)) != ""
    assert refusal(Rules.parse([f"{inner}/32"]), write(inner)) != ""
    assert refusal(Rules.parse([network, f"{inner}/32"]), write(inner)) == ""


@pytest.mark.parametrize("form", [form for form in FORMS if form != "mapped"])
def test_public_address_in_an_allowed_network(form: str) -> None:
    """An allowed network admits global addresses inside, on the ports on which they are allowed."""
    write, network = FORMS[form]
    assert refusal(Rules.parse([network]), write("8.8.8.8")) == ""
    assert refusal(Rules.parse([network]), write("8.8.8.8"), 25) == "port"


def test_addresses_that_contain_none() -> None:
    """Allowed addresses without another inside are allowed on any port, as before."""
    for address, network in {"::1": "::1/128", "fd00::1": "fd00::/8", "10.1.2.3": "10.0.0.0/8"}.items():
        assert refusal(Rules.parse([network]), address, 25) == ""


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.tencentyun.com.", "metadata", "instance-data"]
)
async def test_metadata_name(host: str) -> None:
    """The names of metadata services are refused before an upstream proxy could resolve them."""
    async with in_process_guard(upstream="http://127.0.0.1:1") as guard:
        answer = await guard.request("GET", f"http://{host}/")
    assert (answer.status, answer.refusal) == (403, "metadata")


@pytest.mark.parametrize("host", ["metadata.example", "google.internal.example", "xmetadata"])
def test_other_names(host: str) -> None:
    """Names that only look alike are names like any other."""
    assert parse_host(host) is None


async def test_metadata_inside_an_address_over_the_guard() -> None:
    """A URL with a metadata address inside another is refused by the guard, and a DNS answer with it too."""
    names = {"a.test": [sixtofour("168.63.129.16")], "b.test": [nat64("64:ff9b::", 96, "169.254.169.254")]}
    async with in_process_guard(names, allow_networks=["::/0", "0.0.0.0/0"]) as guard:
        for host in (*names, f"[{sixtofour('168.63.129.16')}]"):
            answer = await guard.request("GET", f"http://{host}/")
            assert (answer.status, answer.refusal) == (403, "metadata")


@pytest.mark.parametrize("count", [256, 257])
async def test_long_dns_answer(count: int) -> None:
    """A DNS answer with more addresses than any honest site lists is none."""
    async with in_process_guard({"a.test": ["10.0.0.1"] * count}) as guard:
        answer = await guard.request("GET", "http://a.test/")
    assert (answer.refusal, answer.failure) == (("private", "") if count == 256 else ("", "unresolved"))
