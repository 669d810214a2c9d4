"""Origins: which web pages may make a browser speak to this gateway. Those of its own host, and no others.

Browsers let any page open a WebSocket to a loopback address and send it simple forms; and a
name that its owner points at 127.0.0.1 makes a page one of "our own" (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


def foreign(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the page of another origin asks for more than to read; *method* of a socket is empty."""
    origin = headers.get(b"origin")
    if origin is None or method in _HARMLESS:
        return False
    return urlsplit(origin).netloc.lower() != headers.get(b"host", b"").lower()


def local(headers: Mapping[bytes, bytes]) -> bool:
    """Whether Host is an address or localhost, and so no name that others can point here."""
    host = urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # HTTP/1.0 without Host: no browser.
        return not host
    return True
