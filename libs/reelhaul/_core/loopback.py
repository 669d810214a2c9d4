"""Loopback addresses, to which no proxy of the environment applies."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an address, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
