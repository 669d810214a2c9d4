"""Origins: which hosts and which pages of other sites the gateway serves. RFC 9110, RFC 6454, Fetch."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

from reelhaul_gateway.settings import ANY_ORIGIN
from reelhaul_transcoding.errors import FieldError
from reelhaul_transcoding.http.asgi import Header

# host [":" port] of RFC 9110 section 7.2: an address in brackets, or letters that DNS and browsers use.
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._\-]{1,255}))(?::\d{1,5})?")
# The relations of a page to this server from which its requests with effects are accepted; ``none`` is a
# request of the user's own, e.g. by the address bar. https://www.w3.org/TR/fetch-metadata/
_OWN_SITE = frozenset({b"same-origin", b"none"})

_ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
# Names of headers, comma separated: https://fetch.spec.whatwg.org/#http-access-control-request-headers
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_, \-]{1,2048}")
# The headers of responses that scripts may read, beside those that Fetch allows anyway.
_EXPOSED_HEADERS = (
    b"accept-ranges, allow, content-disposition, content-encoding, content-range, etag, location, ratelimit,"
    b" ratelimit-policy, retry-after, www-authenticate, x-request-id"
)


class CorsPolicy:
    """Allows pages of other origins to call the gateway. https://fetch.spec.whatwg.org/#http-cors-protocol

    *origins* are exact, or ``*`` alone: all. With *credentials* browsers may send cookies and the like.
    Browsers remember a preflight for *max_age* seconds.
    """

    def __init__(
        self, origins: Collection[str] = (), *, credentials: bool = False, max_age: int = 600
    ) -> None:
        self._any = ANY_ORIGIN in origins
        shared: list[Header] = [(b"access-control-expose-headers", _EXPOSED_HEADERS)]
        if credentials:
            shared.append((b"access-control-allow-credentials", b"true"))
        # Caches must keep the responses to different origins apart, also the one without an origin.
        self._no_origin: tuple[Header, ...] = ((b"vary", b"origin"),) if origins and not self._any else ()
        self._headers: dict[bytes, tuple[Header, ...]] = {
            origin.encode(): ((b"access-control-allow-origin", origin.encode()), *shared, *self._no_origin)
            for origin in origins
        }
        self._max_age = str(max_age).encode()

    def allows(self, origins: Sequence[bytes]) -> bool:
        """Return whether a request with these Origin headers is of a page that may call the gateway."""
        return len(origins) == 1 and (self._any or origins[0] in self._headers)

    def response_headers(self, origins: Sequence[bytes]) -> tuple[Header, ...]:
        """Return the headers of every response to a request with these Origin headers."""
        if not self.allows(origins):
            return self._no_origin
        return self._headers[ANY_ORIGIN.encode() if self._any else origins[0]]

    def preflight_headers(self, requested_headers: Sequence[bytes]) -> list[Header]:
        """Return the further headers of the response to a preflight of an allowed origin."""
        headers: list[Header] = [
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-max-age", self._max_age),
            (b"vary", b"access-control-request-method, access-control-request-headers"),
        ]
        # An allowed page may send what any other client may send.
        names = b", ".join(requested_headers)
        if _HEADER_NAMES.fullmatch(names):
            headers.append((b"access-control-allow-headers", names))
        return headers


class AllowedHosts:
    """The host names that this server has. IP addresses and localhost are always among them.

    Others are refused against DNS rebinding: a page whose owner points its host name at 127.0.0.1 is of "the
    same origin" as this server. *names* are in lower case; ``*.example.org`` stands for all names below
    example.org. With *anyone* every name is allowed.
    """

    def __init__(self, names: Collection[str] = (), *, anyone: bool = False) -> None:
        #: Whether names are listed: what a trusted proxy reports must then be one of them, too.
        self.has_names = bool(names)
        self._anyone = anyone
        self._names = frozenset(name.encode() for name in names if not name.startswith("*"))
        self._suffixes = tuple(name[1:].encode() for name in names if name.startswith("*"))
        self._suffixes += (b".localhost",)

    def allows(self, name: bytes) -> bool:
        """Return whether *name*, the host of a Host header without its port, is one of this server."""
        name = name.lower()
        return (
            self._anyone
            or name in self._names
            or name == b"localhost"
            or name.endswith(self._suffixes)
            or _is_ip_address(name)
        )


#: For a deployment whose callers all present a credential, which no other page has.
ANY_HOST = AllowedHosts(anyone=True)


def check_host(hosts: Sequence[bytes], allowed: AllowedHosts) -> FieldError | None:
    """Return the error if Host is malformed, repeated or not *allowed*."""
    if len(hosts) > 1:
        return FieldError("host", "must be sent once")
    if not hosts or not hosts[0]:
        # HTTP/1.0 without Host: not a browser.
        return None
    match = _HOST.fullmatch(hosts[0])
    if match is None or (match[1] is not None and not _is_ipv6_address(match[1])):
        return FieldError("host", "must be a host name or an IP address, with or without a port")
    if match[1] is None and not allowed.allows(match[2]):
        return FieldError("host", "must be an IP address, localhost or one of REELHAUL_GATEWAY_ALLOWED_HOSTS")
    return None


def check_origin(
    origins: Sequence[bytes], relations: Sequence[bytes], hosts: Sequence[bytes]
) -> FieldError | None:
    """Return the error if a page of another origin sent the request; only browsers send the headers for it.

    *origins*, *relations* and *hosts* are the values of Origin, Sec-Fetch-Site and Host. Browsers let any
    page open a WebSocket to a loopback address, post simple forms to it, and request its URLs as images.
    """
    if origins:
        authority = origins[0].partition(b"://")[2].lower()
        if len(origins) > 1 or not authority or len(hosts) != 1 or authority != hosts[0].lower():
            return FieldError(
                "origin", "must be this server's own origin, or one of REELHAUL_GATEWAY_CORS_ORIGINS"
            )
    if any(relation not in _OWN_SITE for relation in relations):
        return FieldError("sec-fetch-site", "must be same-origin or none")
    return None


def _is_ipv6_address(host: bytes) -> bool:
    return b":" in host and _is_ip_address(host)


def _is_ip_address(host: bytes) -> bool:
    try:
        ipaddress.ip_address(host.decode())
    except ValueError:
        return False
    return True
