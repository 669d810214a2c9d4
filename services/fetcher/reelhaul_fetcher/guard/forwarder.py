"""Carries admitted requests to their sites and the answers back."""

from __future__ import annotations

import asyncio

from reelhaul_fetcher.guard.buffered_socket import BufferedSocket
from reelhaul_fetcher.guard.dialer import Dialer
from reelhaul_fetcher.guard.errors import Malformed, Refused, Unreachable
from reelhaul_fetcher.guard.http import error_responses
from reelhaul_fetcher.guard.http.fields import CHUNKED, UNTIL_CLOSE, values
from reelhaul_fetcher.guard.http.requests import Request
from reelhaul_fetcher.guard.http.responses import Response, parse_response
from reelhaul_fetcher.guard.session import ProxySession


class Forwarder:
    """The way out of one client's connection; the way to the last site stays open between requests."""

    def __init__(self, client: BufferedSocket, dialer: Dialer, account: ProxySession) -> None:
        #: Whether the client has got bytes of an answer that is not complete.
        self.answering = False
        self._client = client
        self._dialer = dialer
        self._account = account
        self._site: BufferedSocket | None = None
        self._site_of = ("", 0)

    @property
    def moved(self) -> float:
        """Monotonic time at which bytes last moved on the site's side."""
        return self._site.moved if self._site else 0.0

    async def carry(self, request: Request) -> bool:
        """Carry *request* and its answer; whether another may follow.

        Raises ``Refused``, ``Malformed`` or ``Unreachable``; OSError when the client is gone.
        """
        if request.method == "CONNECT":
            return await self._tunnel(request)
        if request.method not in ("GET", "HEAD", "POST"):
            raise Refused("method")
        if any(value.lower() != "h2c" for value in values(request.fields, "upgrade")):
            raise Refused("upgrade")
        response, whole = await self._asked(request)
        return await self._pass_back(request, response) and whole

    def leave(self) -> None:
        """Close the way to the site."""
        if self._site:
            self._site.close()
            self._site = None

    async def _tunnel(self, request: Request) -> bool:
        if request.body:
            raise Malformed("body")
        site, _ = await self._reach(request)
        if self._account.upstream:
            await self._through_upstream(site, request)
        self.answering = True
        await self._client.send(error_responses.CONNECTED)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(self._client, site))
                both.create_task(copy(site, self._client))
        except* (OSError, Refused):
            self._client.abort()
        return False

    async def _through_upstream(self, site: BufferedSocket, request: Request) -> None:
        assert self._account.upstream
        await site.send(request.connecting(self._account.upstream.authorization))
        response = await _response(site)
        if response.status // 100 != 2:
            raise Unreachable(f"upstream-{response.status}")

    async def _asked(self, request: Request) -> tuple[Response, bool]:
        """The head of the answer, and whether all of the request's body was taken."""
        site, used = await self._reach(request)
        try:
            return await self._ask(site, request)
        except Unreachable:
            # A kept connection may close just when it is used again; that is no failure of the site.
            if not used or request.method == "POST":
                raise
        self.leave()
        site, _ = await self._reach(request)
        return await self._ask(site, request)

    async def _ask(self, site: BufferedSocket, request: Request) -> tuple[Response, bool]:
        upstream = self._account.upstream
        whole = True
        try:
            await site.send(request.forwarded(upstream.authorization if upstream else None))
            if request.body and values(request.fields, "expect"):
                await self._client.send(error_responses.CONTINUE)
            await self._client.relay(site, request.body)
        except ConnectionError:
            # Some sites answer before they have read all.
            whole = False
        response = await _response(site)
        if upstream and response.status == 407:
            raise Unreachable("upstream-407")
        return response, whole

    async def _pass_back(self, request: Request, response: Response) -> bool:
        assert self._site
        try:
            length = response.body(request.method)
        except Malformed as malformed:
            raise Unreachable(f"answer-{malformed.why}") from None
        if length == CHUNKED and request.version == "HTTP/1.0":
            raise Unreachable("answer-coding")
        keep = request.keep and length != UNTIL_CLOSE
        self.answering = True
        await self._client.send(response.forwarded(length, keep))
        await self._site.relay(self._client, length)
        self.answering = False
        if not response.keep:
            self.leave()
        return keep

    async def _reach(self, request: Request) -> tuple[BufferedSocket, bool]:
        """A connection to the request's site, and whether it was used before."""
        place = (request.host, request.port)
        if self._site and self._site_of == place and not self._site.stale:
            return self._site, True
        self.leave()
        self._site = BufferedSocket(await self._dialer.dial(*place, self._account.upstream), self._account)
        self._site_of = place
        return self._site, False


async def _response(site: BufferedSocket) -> Response:
    """The next final answer. Raises ``Unreachable`` when there is none that can be read."""
    try:
        for _ in range(8):
            head = await site.head(_HEAD_LIMIT)
            if not head:
                break
            response = parse_response(head)
            if response.status >= 200:
                return response
    except Malformed as malformed:
        raise Unreachable(f"answer-{malformed.why}") from None
    except OSError:
        pass
    raise Unreachable("closed")


async def copy(source: BufferedSocket, to: BufferedSocket) -> None:
    await source.relay(to, UNTIL_CLOSE)
    to.finish()


_HEAD_LIMIT = 64 * 1024
