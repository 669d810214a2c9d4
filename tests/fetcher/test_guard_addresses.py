"""Address rules: tables of forbidden, public and ambiguous addresses, and two properties."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reelhaul_fetcher.guard.errors import Refused
from reelhaul_runtime.addresses import Address, Rules, non_global_reason, parse_host

FORBIDDEN = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "shared",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.1.1": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.1": "reserved",
    "192.0.2.1": "documentation",
    "192.88.99.1": "reserved",
    "192.168.0.1": "private",
    "198.18.0.1": "benchmarking",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "reserved",
    "::8.8.8.8": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:0:127.0.0.1": "reserved",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b:1::8.8.8.8": "nat64",
    "64:ff9b:1::127.0.0.1": "nat64",
    "100::1": "reserved",
    "2001::": "unspecified",
    "2001:0:7f00:1:0:0:f7f7:f7f7": "loopback",  # Teredo by a server on 127.0.0.1
    "2001:0:808:808:0:0:80ff:fffe": "loopback",  # Teredo to a client on 127.0.0.1
    "2001:2::1": "benchmarking",
    "2001:10::1": "reserved",
    "2001:db8::1": "documentation",
    "2002:7f00:1::": "loopback",
    "2002:a00:1::1": "private",
    "2002:a9fe:101::": "link-local",
    "3fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "fe80::1": "link-local",
    "fe80::1%1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
}
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:4860:4860::8888",
    "2001:0:808:808:0:0:f7f7:f7f7",
    "2002:808:808::1",
    "2606:4700::1111",
    "2a00:1450::1",
]
AMBIGUOUS_HOSTS = {
    "2130706433": "number",
    "134744072": "number",
    "0x7f000001": "number",
    "0x7F.0.0.1": "number",
    "0177.0.0.1": "number",
    "010.8.8.8": "number",
    "127.1": "number",
    "8.8.2056": "number",
    "8.8.8.8.": "number",
    "8.8.8.08": "number",
    "8.8.8.256": "number",
    "8.8.8.8.8": "number",
    "0": "number",
    "0x": "number",
    "name.1": "number",
    "１２７.0.0.1": "host",
    "①②⑦.⓪.⓪.①": "host",
    "127。0。0。1": "host",
    "[fe80::1%25eth0]": "host",
    "[::1%lo]": "host",
    "[127.0.0.1]": "host",
    "[::1": "host",
    "::1": "host",
    "": "host",
    ".": "host",
    "a..b": "host",
    "a b": "host",
    "a/b": "host",
    "a@b": "host",
    "user:pw@a": "host",
    "a\x00.example": "host",
    "a\n": "host",
    "a%2e.example": "host",
    "x" * 64 + ".example": "host",
    ".".join(["x" * 60] * 5): "host",
}


def refusal(rules: Rules, *addresses: str, port: int = 443) -> str:
    """Return why *rules* refuse the addresses of a name; empty if they do not."""
    try:
        rules.check([ip_address(text) for text in addresses], port)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(("address", "reason"), FORBIDDEN.items())
def test_forbidden(address, reason):
    """Everything but global unicast is refused with its kind, also inside a tunnel address."""
    assert refusal(Rules(), address) == reason


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    """Global unicast is allowed, also inside a tunnel address."""
    assert refusal(Rules(), address) == ""


@pytest.mark.parametrize("address", METADATA)
def test_metadata_addresses(address):
    """Cloud metadata addresses are refused even inside an allowed network."""
    everything = Rules.parse(["0.0.0.0/0", "::/0"])
    assert refusal(Rules(), address) == refusal(everything, address) == "metadata"


def test_mixed_dns_answer():
    """One forbidden address refuses the whole DNS answer, at any position."""
    assert refusal(Rules(), "8.8.8.8", "127.0.0.1") == "loopback"
    assert refusal(Rules(), "10.0.0.1", "8.8.8.8") == "private"
    assert refusal(Rules(), "8.8.8.8", "2606:4700::1111") == ""


def test_ports():
    """Public addresses are allowed on web ports and configured ones; allowed networks on any port."""
    rules = Rules.parse(["10.1.0.0/16"], [8443])
    assert [refusal(rules, "8.8.8.8", port=port) for port in (80, 443, 8443)] == ["", "", ""]
    assert refusal(rules, "8.8.8.8", port=22) == "port"
    assert refusal(rules, "10.1.2.3", port=22) == ""
    assert refusal(rules, "10.1.2.3", "8.8.8.8", port=22) == "port"
    assert refusal(rules, "10.2.0.1") == "private"


def test_allowed_network_and_tunnels():
    """An allowed network may be reached directly or mapped, not through a tunnel address."""
    rules = Rules.parse(["127.0.0.2/32"])
    assert refusal(rules, "127.0.0.2") == refusal(rules, "::ffff:127.0.0.2") == ""
    for tunnelled in ("64:ff9b::127.0.0.2", "2002:7f00:2::1", "::127.0.0.2"):
        assert refusal(rules, tunnelled) in ("loopback", "reserved")


@pytest.mark.parametrize("invalid", ["10.0.0.1/8", "localhost", "10.0.0.0/33", ""])
def test_invalid_network(invalid):
    """An invalid network is rejected when it is configured, not when it is used."""
    with pytest.raises(ValueError, match=r"host bits|IPv4"):
        Rules.parse([invalid])


@pytest.mark.parametrize(("host", "reason"), AMBIGUOUS_HOSTS.items())
def test_ambiguous_hosts(host, reason):
    """A host that resolvers interpret differently is refused before it is resolved."""
    with pytest.raises(Refused) as refused:
        parse_host(host)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("8.8.8.8", IPv4Address("8.8.8.8")),
        ("[::1]", IPv6Address("::1")),
        ("[::ffff:127.0.0.1]", IPv6Address("::ffff:127.0.0.1")),
        ("example.com", None),
        ("example.com.", None),
        ("1.example", None),
        ("127.0.0.1.nip.example", None),
        ("r5---sn-4g5e6nz7.video.example", None),
        ("a_b.example", None),
        ("localhost", None),
        ("0xyz", None),
    ],
)
def test_plain_hosts(host, address):
    """Canonical addresses are parsed, everything else is a name."""
    assert parse_host(host) == address


def embedded(address: Address) -> list[Address]:
    """Return where packets for *address* may end, by the standard library: an independent implementation."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    if address.sixtofour:
        return [address.sixtofour]
    if address.teredo:
        return list(address.teredo)
    if int(address) >> 32 == int(IPv6Address("64:ff9b::")) >> 32:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address]


WRAPS = [
    lambda v4: IPv6Address(int(v4)),
    lambda v4: IPv6Address((0xFFFF << 32) | int(v4)),
    lambda v4: IPv6Address(int(IPv6Address("64:ff9b::")) | int(v4)),
    lambda v4: IPv6Address(int(IPv6Address("64:ff9b:1::")) | int(v4)),
    lambda v4: IPv6Address(int(IPv6Address("2002::")) | (int(v4) << 80)),
    lambda v4: IPv6Address(int(IPv6Address("2001::")) | (0x08080808 << 64) | (int(v4) ^ 0xFFFFFFFF)),
    lambda v4: IPv6Address(int(IPv6Address("2001::")) | (int(v4) << 64) | (0x08080808 ^ 0xFFFFFFFF)),
]
ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.builds(lambda wrap, v4: wrap(v4), st.sampled_from(WRAPS), st.ip_addresses(v=4)),
)


@given(ADDRESSES)
@example(IPv6Address("2001::7f00:1"))
def test_allowed_addresses_are_global(address):
    """Every address that the guard allows is global to the standard library, at every depth."""
    if not non_global_reason(address):
        for inner in embedded(address):
            assert inner.is_global
            assert not any([inner.is_multicast, inner.is_reserved, inner.is_loopback, inner.is_link_local])


@given(st.ip_addresses(v=4))
def test_global_ipv4_is_allowed(address):
    """The guard allows every global unicast IPv4 address but the 6to4 relays."""
    relays = ip_network("192.88.99.0/24"), ip_network("192.0.0.0/24")
    special = address.is_multicast or address.is_reserved or any(address in network for network in relays)
    if address.is_global and not special:
        assert non_global_reason(address) == ""
