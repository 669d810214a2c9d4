"""Limits of keys and tenants: quotas, lists of sites, and networks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_runtime.validation.violations import FieldViolations

#: Most entries of a list of sites, and of one of networks.
MAX_SITES, MAX_NETWORKS = 100, 50

# A petabyte, or as many calls, jobs or seconds: sums of such limits stay far below 64 bits.
_MAX_LIMIT = 10**15
_MAX_HOST, _MAX_NETWORK = 253, 49
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_quota(quota: api_key_pb2.Quota, field: str, violations: FieldViolations) -> None:
    """Add a violation for each limit of *quota* that is neither -1, 0 nor a plausible number."""
    for descriptor, value in quota.ListFields():
        if not -1 <= value <= _MAX_LIMIT:
            violations.add(f"{field}.{descriptor.name}", f"must be from -1 (no limit) to {_MAX_LIMIT}")


def normalize_sites(sites: Iterable[str], field: str, violations: FieldViolations) -> list[str]:
    """Return the host names *sites* in lower case and punycode, each once; add what is wrong with them."""
    text = "must be a host name without scheme, port and path, for example youtube.com"
    return _normalize(sites, field, violations, MAX_SITES, _parse_site, text)


def normalize_networks(networks: Iterable[str], field: str, violations: FieldViolations) -> list[str]:
    """Return *networks* in CIDR notation, each once; an address is a network of one. Add what is wrong."""
    text = "must be a network without host bits, for example 192.0.2.0/24 or 2001:db8::/32"
    return _normalize(networks, field, violations, MAX_NETWORKS, _parse_network, text)


def _normalize(
    values: Iterable[str],
    field: str,
    violations: FieldViolations,
    most: int,
    parse: Callable[[str], str],
    description: str,
) -> list[str]:
    entries = list(values)
    if len(entries) > most:
        violations.add(field, f"must be at most {most} entries, not {len(entries)}")
        return []
    parsed = []
    for index, value in enumerate(entries):
        try:
            parsed.append(parse(value))
        except ValueError:
            violations.add(f"{field}[{index}]", description)
    return list(dict.fromkeys(parsed))


def _parse_site(value: str) -> str:
    host = value if len(value) <= _MAX_HOST else ""
    host = host.removesuffix(".") if host.isascii() else host.encode("idna").decode()
    host = host.lower()
    if not all(map(_LABEL.fullmatch, host.split("."))) or len(host) > _MAX_HOST:
        raise ValueError("not a host name")
    return host


def _parse_network(value: str) -> str:
    if len(value) > _MAX_NETWORK or "%" in value:
        raise ValueError("too long, or with a zone")
    network = ipaddress.ip_network(value)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        # Clients with such an address count as IPv4.
        return str(ipaddress.ip_network((mapped, network.prefixlen - 96)))
    return str(network)
