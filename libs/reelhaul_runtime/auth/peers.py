"""Peers: which service of the suite sent a call, and the address of the client that it is for."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

#: Metadata of a call; the values of keys that end in ``-bin`` are bytes.
Metadata = Mapping[str, str | bytes]

#: Returns what TLS proves of the other end of a connection, as ``grpc.ServicerContext.auth_context`` does.
AuthContext = Callable[[], Mapping[str, Any]]

#: Metadata key of the suite's own credential.
SUITE_TOKEN_KEY = "x-reelhaul-suite-token"  # noqa: S105 - a name, not a secret
#: Metadata key that marks a call of a client which a service of the suite passes on. Such a call is never
#: the service's own, even if the client sent no credential.
FORWARDED_KEY = "x-reelhaul-forwarded"


@dataclass(slots=True)
class Peer:
    """Where a call comes from, before its caller is authenticated."""

    #: IP address of the client, as the suite's own services report it; empty if it has none.
    address: str = ""
    #: The service of the suite that sent the call, as its credential proves; empty for others. The shared
    #: token proves "suite", any of them.
    service: str = ""
    #: Whether the service passes on a call of its client, which entered the suite there.
    forwarded: bool = False


class ServiceIdentifier:
    """Identifies the services of the suite by their credential.

    It is the suite token; if *tls_service_name* is set, a certificate with this DNS name as well. Calls that
    the gateway passes on come over the same connections as its own: the token marks which are its own.
    """

    def __init__(self, suite_token: str, tls_service_name: str = "") -> None:
        self._suite_token, self._tls_service_name = suite_token.encode(), tls_service_name.encode()

    def identify_service(self, metadata: Metadata, auth_context: AuthContext) -> str:
        """Return the service that sent a call with *metadata*; empty if it proves none.

        If no credential is configured, no caller counts as a service.
        """
        token = metadata.get(SUITE_TOKEN_KEY)
        if not token or not self._suite_token:
            return ""
        token = token if isinstance(token, bytes) else token.encode()
        if not hmac.compare_digest(token, self._suite_token) or not self._is_certified(auth_context):
            return ""
        return "suite"

    def _is_certified(self, auth_context: AuthContext) -> bool:
        if not self._tls_service_name:
            return True
        return self._tls_service_name in auth_context().get("peer_dns", ())


def connection_address(peer: str) -> str:
    """Return the IP address in *peer*, gRPC's ``ipv4:127.0.0.1:1234`` or ``ipv6:%5B::1%5D:1234``.

    Empty for another kind of peer.
    """
    host = unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")
    return host if is_address(host) else ""


def is_loopback(address: str) -> bool:
    """Return whether *address* is an IP address of this machine itself."""
    parsed = _parse_address(address)
    return parsed is not None and parsed.is_loopback


def is_address(text: str) -> bool:
    """Return whether *text* is an IP address."""
    return _parse_address(text) is not None


@lru_cache(maxsize=1024)
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
