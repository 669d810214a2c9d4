"""Address guard: HTTP for botocore that reaches public addresses and allowed networks only.

Tenants choose the endpoints of destinations. Names are resolved here, every address is checked, and the
connection goes to an address that was checked, so that no changing DNS answer leads to a private address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
    AWSPreparedRequest,
    AWSResponse,
)
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import NewConnectionError
from urllib3.util import connection as sockets

from reelhaul_runtime.addresses import Address, Network, Refused, Rules, parse_host

#: Seconds that connecting, and each read and write, may take.
TIMEOUT = (10, 60)
_HTTPS_PORT = 443

#: Returns the addresses of a host name. Raises OSError.
Resolve = Callable[[str], Sequence[Address]]


def resolve(host: str) -> Sequence[Address]:
    """Return the addresses of *host*, from the resolver of this machine. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(each[4][0]) for each in found]


@dataclass(frozen=True)
class AddressGuard:
    """Which addresses endpoints may have: public ones over https at port 443, and those in *networks*."""

    networks: tuple[Network, ...] = ()
    resolve: Resolve = resolve

    def check_url(self, url: str) -> None:
        """Raise ``Refused`` if the endpoint *url* may not be reached, OSError if it cannot be resolved."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self.allowed_addresses(parts.hostname or "", parts.port or (_HTTPS_PORT if secure else 80), secure)

    def allowed_addresses(self, host: str, port: int, secure: bool) -> Sequence[Address]:
        """Return the addresses of *host* if all of them may be reached. Raises as ``check_url``."""
        literal = parse_host(f"[{host}]" if ":" in host else host)
        addresses = [literal] if literal else self.resolve(host)
        if not secure and not all(self._is_allowed_network(address) for address in addresses):
            raise Refused("http")
        Rules(self.networks, frozenset({_HTTPS_PORT})).check(addresses, port)
        return addresses

    def _is_allowed_network(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


class GuardedSession:
    """Sends the requests of botocore clients, without proxies, to allowed addresses only."""

    def __init__(self, guard: AddressGuard) -> None:
        self._session = URLLib3Session(timeout=TIMEOUT)  # type: ignore[arg-type]
        # botocore has no parameter for these classes.
        self._session._manager.pool_classes_by_scheme = _pool_classes(guard)  # type: ignore[attr-defined]

    def attach(self, client: Any) -> None:
        """Send all requests of *client*, a boto3 client of S3, through this session."""
        client.meta.events.register("before-send.s3", self._send)
        client.meta.events.register("before-call.s3", _disable_region_redirect)

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _send(self, request: AWSPreparedRequest, **kwargs: object) -> AWSResponse:
        """Return the response to *request*: botocore then sends nothing itself."""
        try:
            return self._session.send(request)
        except HTTPClientError as error:
            # botocore would take it for a broken connection, and try again.
            cause = error.kwargs.get("error")
            raise (cause if isinstance(cause, Refused) else error) from None


def _disable_region_redirect(context: dict[str, Any], **kwargs: object) -> None:
    """Tell botocore that the request was redirected, so that it does not follow a redirect again.

    To find the region it would send further requests, without end if all are redirected.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _pool_classes(guard: AddressGuard) -> dict[str, type[Any]]:
    class HTTPConnection(AWSHTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, self, secure=False)

    class HTTPSConnection(AWSHTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, self, secure=True)

    class HTTPConnectionPool(AWSHTTPConnectionPool):
        ConnectionCls = HTTPConnection

    class HTTPSConnectionPool(AWSHTTPSConnectionPool):
        ConnectionCls = HTTPSConnection

    return {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


def _connect(guard: AddressGuard, connection: Any, *, secure: bool) -> socket.socket:
    """Return a socket connected to one of the addresses of the host of *connection*, all of them checked."""
    failure: OSError | None = None
    try:
        for address in guard.allowed_addresses(connection.host, connection.port, secure):
            try:
                return sockets.create_connection(
                    (str(address), connection.port),
                    connection.timeout,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError as error:
                failure = error
    except OSError as error:
        failure = error
    # The kind of error that botocore takes for a failed connection.
    raise NewConnectionError(connection, f"failed to connect: {failure}") from failure
