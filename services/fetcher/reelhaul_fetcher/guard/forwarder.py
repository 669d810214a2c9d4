"""Forwards authenticated requests to their sites and the responses back."""

from __future__ import annotations

import asyncio

from reelhaul_fetcher.guard.buffered_socket import BufferedSocket
from reelhaul_fetcher.guard.dialer import Dialer, Upstream
from reelhaul_fetcher.guard.errors import Malformed, Refused, Unreachable
from reelhaul_fetcher.guard.http import error_responses
from reelhaul_fetcher.guard.http.fields import CHUNKED, UNTIL_CLOSE, get_all
from reelhaul_fetcher.guard.http.requests import Request
from reelhaul_fetcher.guard.http.responses import Response, parse_response
from reelhaul_fetcher.guard.session import ProxySession


class Forwarder:
    """Forwards the requests of one client connection; keeps the connection to the last site for reuse."""

    def __init__(self, client: BufferedSocket, dialer: Dialer, session: ProxySession) -> None:
        #: Whether the client has received a part of a response.
        self.responding = False
        self._client = client
        self._dialer = dialer
        self._session = session
        self._site: BufferedSocket | None = None
        self._site_address = ("", 0)

    @property
    def last_activity(self) -> float:
        """Monotonic time of the last byte on the site's side."""
        return self._site.last_activity if self._site else 0.0

    async def forward(self, request: Request) -> bool:
        """Forward *request* and its response; return whether another request may follow.

        Raises ``Refused``, ``Malformed`` or ``Unreachable``; OSError if the client left.
        """
        if request.method == "CONNECT":
            return await self._tunnel(request)
        if request.method not in ("GET", "HEAD", "POST"):
            raise Refused("method")
        if any(value.lower() != "h2c" for value in get_all(request.fields, "upgrade")):
            raise Refused("upgrade")
        response, body_read = await self._request(request)
        return await self._respond(request, response) and body_read

    def close(self) -> None:
        """Close the connection to the site."""
        if self._site:
            self._site.close()
            self._site = None

    async def _tunnel(self, request: Request) -> bool:
        if request.body_length:
            raise Malformed("body")
        site, _ = await self._connect(request)
        if self._session.upstream:
            await self._connect_through_upstream(site, request)
        self.responding = True
        await self._client.send(error_responses.CONNECTED)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(self._client, site))
                group.create_task(copy(site, self._client))
        except* (OSError, Refused):
            self._client.abort()
        return False

    async def _connect_through_upstream(self, site: BufferedSocket, request: Request) -> None:
        assert self._session.upstream
        await site.send(request.encode_connect(self._session.upstream.authorization))
        response = await _read_response(site)
        if response.status // 100 != 2:
            raise Unreachable(f"upstream-{response.status}")

    async def _request(self, request: Request) -> tuple[Response, bool]:
        """Return the head of the response, and whether the site read the whole request body."""
        site, reused = await self._connect(request)
        try:
            return await self._send_request(site, request)
        except Unreachable:
            # A kept connection may be closed just when it is used again; that is not the site's failure.
            if not reused or request.method == "POST":
                raise
        self.close()
        site, _ = await self._connect(request)
        return await self._send_request(site, request)

    async def _send_request(self, site: BufferedSocket, request: Request) -> tuple[Response, bool]:
        upstream = self._session.upstream
        body_read = True
        try:
            await site.send(request.encode(upstream.authorization if upstream else None))
            if request.body_length and get_all(request.fields, "expect"):
                await self._client.send(error_responses.CONTINUE)
            await self._client.relay(site, request.body_length)
        except ConnectionError:
            # Some sites respond before they have read the whole body.
            body_read = False
        response = await _read_response(site)
        if upstream and response.status == 407 and await self._is_rejected_by(upstream, request):
            raise Unreachable("upstream-407")
        return response, body_read

    async def _is_rejected_by(self, upstream: Upstream, request: Request) -> bool:
        """Return whether *upstream* rejects our credentials, by a CONNECT, which no site can answer.

        Sites can answer 407 too, and must not make a working upstream proxy look broken.
        """
        sock = await self._dialer.dial(request.host, request.port, upstream)
        connection = BufferedSocket(sock, self._session)
        try:
            await connection.send(request.encode_connect(upstream.authorization))
            return (await _read_response(connection)).status == 407
        except OSError:
            return False
        finally:
            connection.close()

    async def _respond(self, request: Request, response: Response) -> bool:
        assert self._site
        try:
            length = response.body_length(request.method)
        except Malformed as malformed:
            raise Unreachable(f"answer-{malformed.reason}") from None
        if length == CHUNKED and request.version == "HTTP/1.0":
            raise Unreachable("answer-coding")
        keep_alive = request.keep_alive and length != UNTIL_CLOSE
        self.responding = True
        await self._client.send(response.encode(length, keep_alive))
        await self._site.relay(self._client, length)
        self.responding = False
        if not response.keep_alive:
            self.close()
        return keep_alive

    async def _connect(self, request: Request) -> tuple[BufferedSocket, bool]:
        """Return a connection to the request's site, and whether it was used before."""
        address = (request.host, request.port)
        if self._site and self._site_address == address and not self._site.stale:
            return self._site, True
        self.close()
        sock = await self._dialer.dial(*address, self._session.upstream)
        self._site, self._site_address = BufferedSocket(sock, self._session), address
        return self._site, False


async def _read_response(site: BufferedSocket) -> Response:
    """Return the next final response. Raises ``Unreachable`` if there is none or it cannot be parsed."""
    try:
        for _ in range(8):
            head = await site.read_head(_HEAD_LIMIT)
            if not head:
                break
            response = parse_response(head)
            if response.status >= 200:
                return response
    except Malformed as malformed:
        raise Unreachable(f"answer-{malformed.reason}") from None
    except OSError:
        pass
    raise Unreachable("closed")


async def copy(source: BufferedSocket, target: BufferedSocket) -> None:
    """Relay everything from *source* to *target*, the end included."""
    await source.relay(target, UNTIL_CLOSE)
    target.shutdown_write()


_HEAD_LIMIT = 64 * 1024
