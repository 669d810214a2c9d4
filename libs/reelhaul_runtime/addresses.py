"""Address rules: which hosts and addresses a fetch may reach. Pure functions, no sockets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Allowed on every public address; other ports must be configured.
WEB_PORTS = frozenset({80, 443})


class Refused(Exception):
    """The rules forbid an address or a request. *reason* is one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Rules:
    """Allowed destinations: global unicast addresses on web ports, and what the operator adds."""

    #: Networks of the operator that fetches may reach, on any port.
    allow_networks: tuple[Network, ...] = ()
    ports: frozenset[int] = WEB_PORTS

    @classmethod
    def parse(cls, allow_networks: Iterable[str] = (), extra_ports: Iterable[int] = ()) -> Rules:
        """Parse CIDR networks and ports. Raises ValueError that names the invalid one."""
        ports = WEB_PORTS | frozenset(extra_ports)
        for port in ports:
            if not 0 < port < 65536:
                raise ValueError(f"{port} is not a port")
        return cls(tuple(ip_network(text.strip()) for text in allow_networks), ports)

    def check(self, addresses: Iterable[Address], port: int) -> None:
        """Raise ``Refused`` unless all *addresses* may be reached on *port*.

        One forbidden address refuses the whole DNS answer: an honest site has no reason to list it.
        """
        for address in map(unmap, addresses):
            inner = embedded_ipv4(address)
            if any(_without_zone(part) in _METADATA for part in (address, *inner)):
                raise Refused("metadata")
            self._check_address(address, port)
            # An allowed network of tunnel addresses allows no more than they lead to.
            for part in inner:
                self._check_address(part, port)

    def _check_address(self, address: Address, port: int) -> None:
        if any(address in network for network in self.allow_networks):
            return
        if reason := non_global_reason(address):
            raise Refused(reason)
        if port not in self.ports:
            raise Refused("port")


def parse_host(host: str) -> Address | None:
    """Return the address literal in *host* (of a URL, IPv6 in brackets); None if it is a name.

    Raises ``Refused`` for everything that resolvers interpret differently: decimal, octal, hexadecimal
    and short forms of IPv4, zones, and invalid host names; and for the names of metadata services, which
    only an upstream proxy inside that cloud may resolve.
    """
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1])
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Refused("host")
    if host.lower().rstrip(".") in _METADATA_NAMES:
        raise Refused("metadata")
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return None
    try:
        return IPv4Address(host)
    except ValueError:
        raise Refused("number") from None


def unmap(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped one, as the kernel does; any other *address* as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def non_global_reason(address: Address) -> str:
    """Return why *address* is not global unicast, looking into tunnel addresses; empty if it is."""
    address = unmap(address)
    if isinstance(address, IPv4Address):
        return next((reason for reason, network in _IPV4 if address in network), "")
    if not any(address in network for network in _PUBLIC_TUNNELS):
        reason = next((reason for reason, network in _IPV6 if address in network), "")
        if reason or address not in _GLOBAL_IPV6:
            return reason or "reserved"
    return next(filter(None, map(non_global_reason, embedded_ipv4(address))), "")


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that packets for *address* may reach by a tunnel or a translator."""
    if isinstance(address, IPv4Address):
        return ()
    if address.sixtofour:
        return (address.sixtofour,)
    if address.teredo:
        return address.teredo
    value = int(address)
    if address in _NAT64:
        return (IPv4Address(value & _LAST_32_BITS),)
    if any(address in network for network in _IPV4_SUFFIXES) or value >> 32 & _ISATAP_MASK == _ISATAP:
        candidates = [value]
    elif address in _LOCAL_NAT64:
        # Any prefix length of RFC 6052 may be in use. Bits 64 to 71 are not part of the IPv4 address.
        joined = (value >> 64 << 56) | (value & (1 << 56) - 1)
        candidates = [joined >> 40, joined >> 32, joined >> 24, value]
    else:
        return ()
    # What else the bits may mean lies in 0.0.0.0/8, which no translator forwards: `::1` is no IPv4 address.
    inner = dict.fromkeys(IPv4Address(candidate & _LAST_32_BITS) for candidate in candidates)
    return tuple(part for part in inner if part not in _THIS_NETWORK)


def _ipv6(text: str) -> IPv6Address:
    if "%" in text:
        raise Refused("host")
    try:
        return IPv6Address(text)
    except ValueError:
        raise Refused("host") from None


def _without_zone(address: Address) -> Address:
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _table(**networks: str) -> tuple[tuple[str, Network], ...]:
    return tuple(
        (reason.replace("_", "-"), ip_network(text))
        for reason, texts in networks.items()
        for text in texts.split()
    )


# Host names have no underscores, but content networks use them. A final dot is the DNS root.
_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)

# A table of our own: the results of `is_global` differ between Python releases.
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
    # Local-use NAT64 has no fixed position for the IPv4 address, so it cannot be unwrapped.
    nat64="64:ff9b:1::/48",
    reserved="2001::/23",
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_LAST_32_BITS = 0xFFFFFFFF
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
# NAT64, 6to4, Teredo: as global as the IPv4 addresses inside.
_PUBLIC_TUNNELS = (_NAT64, IPv6Network("2002::/16"), IPv6Network("2001::/32"))
# IPv4-compatible (RFC 4291) and IPv4-translated (RFC 7915).
_IPV4_SUFFIXES = (IPv6Network("::/96"), IPv6Network("::ffff:0:0:0/96"))
# Interface identifiers of ISATAP (RFC 5214), whatever their "universal" and "group" bits are.
_ISATAP, _ISATAP_MASK = 0x5EFE, 0xFCFFFFFF

#: Metadata services of clouds, some on public addresses: they hand out credentials, so they are always
#: refused, even inside an allowed network.
_METADATA = frozenset(
    [
        # AWS, Azure, Google, Oracle, OpenStack, DigitalOcean and others.
        IPv4Address("169.254.169.254"),
        # AWS: containers of ECS and EKS.
        IPv4Address("169.254.170.2"),
        IPv4Address("169.254.170.23"),
        IPv6Address("fd00:ec2::254"),
        IPv6Address("fd00:ec2::23"),
        # Google.
        IPv6Address("fd20:ce::254"),
        # Azure: the wire server.
        IPv4Address("168.63.129.16"),
        # Alibaba.
        IPv4Address("100.100.100.200"),
        # Oracle.
        IPv4Address("192.0.0.192"),
        IPv6Address("fd00:c1::a9fe:a9fe"),
        # Scaleway.
        IPv4Address("169.254.42.42"),
        IPv6Address("fd00:42::42"),
        # Tencent.
        IPv4Address("169.254.0.23"),
        # OpenStack.
        IPv6Address("fe80::a9fe:a9fe"),
    ]
)
_METADATA_NAMES = frozenset(
    [
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    ]
)
