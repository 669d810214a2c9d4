"""Address guard: HTTP for botocore that reaches public addresses and allowed networks only.

Tenants choose the endpoints of destinations. Names are resolved here, every address is checked, and the
connection goes to an address that was checked, so that no changing DNS answer leads to a private address.
"""

from __future__ import annotations

import io
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
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import connection as sockets

from reelhaul_runtime.addresses import Address, Network, Refused, Rules, parse_host
from reelhaul_storage.s3.connections import Connections

#: Seconds that connecting, and each read and write, may take.
TIMEOUT = (10, 60)
_HTTPS_PORT = 443
# A response without content is short; one with a list of parts is not used here.
_MAX_BODY = 1 << 20

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

    def __init__(self, guard: AddressGuard, connections: Connections | None = None) -> None:
        self._session = URLLib3Session(timeout=TIMEOUT)  # type: ignore[arg-type]
        self._connections = connections or Connections()
        # botocore has no parameter for these classes.
        classes = _pool_classes(guard, self._connections)
        self._session._manager.pool_classes_by_scheme = classes  # type: ignore[attr-defined]

    def attach(self, client: Any) -> None:
        """Send all requests of *client*, a boto3 client of S3, through this session."""
        client.meta.events.register("before-send.s3", self._send)
        client.meta.events.register("before-call.s3", _disable_region_redirect)

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()
        self._connections.close()

    def _send(self, request: AWSPreparedRequest, **kwargs: object) -> AWSResponse:
        """Return the response to *request*: botocore then sends nothing itself."""
        has_content = request.stream_output
        # botocore would read all of it, however long it is.
        request.stream_output = True
        try:
            response = self._session.send(request)
            return response if has_content else _read_response(response)
        except HTTPClientError as error:
            # botocore would take it for a broken connection, and try again.
            cause = error.kwargs.get("error")
            raise (cause if isinstance(cause, Refused) else error) from None


def _read_response(response: AWSResponse) -> AWSResponse:
    """Return *response* with its whole body, an answer in XML. Raises HTTPClientError if it is too long."""
    try:
        body = response.raw.read(_MAX_BODY + 1)
    except (HTTPError, OSError) as error:
        raise HTTPClientError(error=error) from error
    if len(body) > _MAX_BODY:
        response.raw.close()
        raise HTTPClientError(error=ValueError("the response is too long"))
    response.raw.release_conn()
    raw = HTTPResponse(body=io.BytesIO(body), preload_content=False)
    return AWSResponse(response.url, response.status_code, response.headers, raw)  # type: ignore[arg-type]


def _disable_region_redirect(context: dict[str, Any], **kwargs: object) -> None:
    """Tell botocore that the request was redirected, so that it does not follow a redirect again.

    To find the region it would send further requests, without end if all are redirected.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _pool_classes(guard: AddressGuard, connections: Connections) -> dict[str, type[Any]]:
    class HTTPConnection(AWSHTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, connections, self, secure=False)

    class HTTPSConnection(AWSHTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, connections, self, secure=True)

    class HTTPConnectionPool(AWSHTTPConnectionPool):
        ConnectionCls = HTTPConnection

    class HTTPSConnectionPool(AWSHTTPSConnectionPool):
        ConnectionCls = HTTPSConnection

    return {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


def _connect(
    guard: AddressGuard, connections: Connections, connection: Any, *, secure: bool
) -> socket.socket:
    """Return a socket connected to one of the addresses of the host of *connection*, all of them checked."""
    failure: OSError | None = None
    try:
        for address in guard.allowed_addresses(connection.host, connection.port, secure):
            try:
                connected = sockets.create_connection(
                    (str(address), connection.port),
                    connection.timeout,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError as error:
                failure = error
            else:
                connections.add(connected)
                return connected
    except OSError as error:
        failure = error
    # The kind of error that botocore takes for a failed connection.
    raise NewConnectionError(connection, f"failed to connect: {failure}") from failure
