"""Which addresses a fetch may reach: pure rules, so that no URL, redirect or DNS answer leads inside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from reelhaul_fetcher.guard.errors import Refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Ports of every public address; others must be configured.
WEB_PORTS = frozenset({80, 443})


@dataclass(frozen=True)
class Rules:
    """What may be reached: global unicast on the web's ports, and what the operator lets through besides."""

    #: Networks of the operator's own that fetches may reach, on any port.
    allow_networks: tuple[Network, ...] = ()
    ports: frozenset[int] = WEB_PORTS

    @classmethod
    def of(cls, allow_networks: Iterable[str] = (), extra_ports: Iterable[int] = ()) -> Rules:
        """Rules from their written form. Raises ValueError that names the network or port that is wrong."""
        ports = WEB_PORTS | frozenset(extra_ports)
        for port in ports:
            if not 0 < port < 65536:
                raise ValueError(f"{port} is not a port")
        return cls(tuple(ip_network(text.strip()) for text in allow_networks), ports)

    def check(self, addresses: Iterable[Address], port: int) -> None:
        """Raise ``Refused`` unless every one of *addresses* may be reached at *port*.

        One forbidden address condemns the whole answer: an honest site has no reason to name it.
        """
        for address in map(unmapped, addresses):
            if address in _METADATA:
                raise Refused("metadata")
            if any(address in network for network in self.allow_networks):
                continue
            if forbidden := not_global(address):
                raise Refused(forbidden)
            if port not in self.ports:
                raise Refused("port")


def literal(host: str) -> Address | None:
    """The address that *host* (of a URL, IPv6 in brackets) writes out; None when it is a name.

    Raises ``Refused`` for what resolvers read in more than one way: decimal, octal, hexadecimal and
    short forms of IPv4, zones, and what is no host at all.
    """
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1])
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Refused("host")
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return None
    try:
        return IPv4Address(host)
    except ValueError:
        raise Refused("number") from None


def unmapped(address: Address) -> Address:
    """*address*, or the IPv4 address that the kernel would take it for."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def not_global(address: Address) -> str:
    """Why *address* is not global unicast, through every tunnel that it may name; empty when it is."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return next((why for why, network in _IPV4 if address in network), "")
    if carried := _carried(address):
        return next(filter(None, map(not_global, carried)), "")
    known = next((why for why, network in _IPV6 if address in network), "")
    return known or ("" if address in _GLOBAL_IPV6 else "reserved")


def _ipv6(text: str) -> IPv6Address:
    if "%" in text:
        raise Refused("host")
    try:
        return IPv6Address(text)
    except ValueError:
        raise Refused("host") from None


def _carried(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses at which packets for *address* may come out."""
    if address.sixtofour:
        return (address.sixtofour,)
    if address.teredo:
        return address.teredo
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def _table(**networks: str) -> tuple[tuple[str, Network], ...]:
    return tuple(
        (why.replace("_", "-"), ip_network(text)) for why, texts in networks.items() for text in texts.split()
    )


# Underscores are no host names, but content networks use them; a final dot is the root.
_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)

# Written out, not taken from `is_global`: its answers differ between releases of Python.
_IPV4 = _table(
    unspecified="0.0.0.0/8",
    loopback="127.0.0.0/8",
    private="10.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
    shared="100.64.0.0/10",
    link_local="169.254.0.0/16",
    documentation="192.0.2.0/24 198.51.100.0/24 203.0.113.0/24",
    benchmarking="198.18.0.0/15",
    multicast="224.0.0.0/4",
    reserved="192.0.0.0/24 192.88.99.0/24 240.0.0.0/4",
)
_IPV6 = _table(
    unspecified="::/128",
    loopback="::1/128",
    private="fc00::/7",
    link_local="fe80::/10",
    site_local="fec0::/10",
    documentation="2001:db8::/32 3fff::/20",
    benchmarking="2001:2::/48",
    multicast="ff00::/8",
    # Local-use NAT64 has no fixed place for the IPv4 address, so it cannot be looked through.
    nat64="64:ff9b:1::/48",
    reserved="2001::/23",
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")

#: Where clouds hand out credentials, some of them on public addresses: never let through, not even
#: by an allowed network that spans them.
_METADATA = frozenset(
    [
        IPv4Address("169.254.169.254"),
        IPv4Address("169.254.170.2"),
        IPv4Address("169.254.170.23"),
        IPv4Address("100.100.100.200"),
        IPv4Address("192.0.0.192"),
        IPv4Address("168.63.129.16"),
        IPv6Address("fd00:ec2::254"),
        IPv6Address("fd00:ec2::23"),
        IPv6Address("fd20:ce::254"),
    ]
)
