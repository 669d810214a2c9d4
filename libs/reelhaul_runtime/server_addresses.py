"""Addresses of servers in settings: host:port where one listens, or where clients connect to."""

from __future__ import annotations

import ipaddress
import re

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def check_address(text: str) -> str:
    """Return *text* if it is host:port. Raises ValueError."""
    host, separator, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not separator or bare_ipv6 or not is_port(port):
        raise ValueError("must be host:port, for example 127.0.0.1:8080")
    return text


def split_addresses(text: str) -> list[str]:
    """Return the comma-separated addresses in *text*."""
    return [part for part in map(str.strip, text.split(",")) if part]


def may_be_several(address: str) -> bool:
    """Return whether *address* may stand for several servers: it is a list, or a DNS name."""
    is_name = not ip_version(address) and not is_loopback(address)
    return len(split_addresses(address)) > 1 or is_name


def ip_version(address: str) -> int:
    """Return 4 or 6 for the IP address in *address* (host:port); 0 for a name."""
    try:
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).version
    except ValueError:
        return 0


def is_loopback(address: str) -> bool:
    """Return whether *address* (host:port) is reachable from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_port(text: str) -> bool:
    """Return whether *text* is a number of a port."""
    return bool(_PORT.fullmatch(text)) and int(text) < 1 << 16
