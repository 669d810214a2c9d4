"""RestTransport: calls the JSON API of the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message

from reelhaul._core.errors import CallFailed, status_from_json
from reelhaul._core.loopback import is_loopback
from reelhaul._core.methods import Method
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.existing_files import SaveFailed
from reelhaul.rest import _errors
from reelhaul.rest._events import EventParser
from reelhaul.rest._http_rules import to_http

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

_CONNECT_SECONDS = 5.0
# The longest max_deadline that a policy gives to a unary method is a minute, for a probe.
_CALL_TIMEOUT = httpx.Timeout(65, connect=_CONNECT_SECONDS)
# A server sends as fast as the client reads: longer silence means a dead connection.
_READ_TIMEOUT = httpx.Timeout(30, connect=_CONNECT_SECONDS)


class RestTransport:
    """Calls the gateway at *server*, a URL, with *api_key*, which is sent to no other server."""

    def __init__(self, server: str, api_key: str) -> None:
        self._server = server
        # SSL_CERT_FILE names the authorities of a certificate of one's own, on this machine too.
        self._ssl = httpx.create_ssl_context()
        self._http = httpx.AsyncClient(
            base_url=server,
            auth=_KeyAuth(server, api_key) if api_key else None,
            timeout=_CALL_TIMEOUT,
            # A proxy of the environment leads to the internet, not to this machine.
            trust_env=not is_loopback(httpx.URL(server).host),
            verify=self._ssl,
        )

    async def call(self, method: Method[Q, R], request: Q) -> R:
        call = to_http(method.descriptor, request)
        try:
            response = await self._http.request(
                call.verb, call.path, params=call.query, json=call.body, headers=call.headers
            )
        except httpx.HTTPError as error:
            raise _errors.unreachable(self._server, error) from error
        if not response.is_success:
            raise _errors.from_response(response)
        try:
            return json_format.ParseDict(response.json(), method.response(), ignore_unknown_fields=True)
        except (ValueError, json_format.ParseError) as error:
            raise CallFailed("INTERNAL", f"{self._server} is not a Reelhaul gateway") from error

    async def stream(
        self, method: Method[Q, R], request: Q, silence_seconds: float
    ) -> AsyncGenerator[R, None]:
        call = to_http(method.descriptor, request)
        headers = {**call.headers, "Accept": "text/event-stream"}
        timeout = httpx.Timeout(silence_seconds, connect=_CONNECT_SECONDS)
        parser = EventParser()
        try:
            async with self._http.stream(
                call.verb, call.path, params=call.query, headers=headers, timeout=timeout
            ) as response:
                if not response.is_success:
                    await response.aread()
                    raise _errors.from_response(response)
                async for chunk in response.aiter_bytes():
                    for name, data in parser.feed(chunk):
                        yield parse_message(name, data, method.response())
        except httpx.HTTPError as error:
            raise _errors.unreachable(self._server, error) from error

    async def read(self, file: File, offset: int) -> AsyncGenerator[bytes, None]:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            async with self._open(file.url, headers) as response:
                if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise SaveFailed(f"{file.name}: the server has fewer bytes than it announced")
                if not response.is_success:
                    await response.aread()
                    raise _errors.from_response(response)
                # A server without Range sends everything again.
                is_range = response.headers.get("content-range", "").startswith(f"bytes {offset}-")
                skipped = offset if offset and not is_range else 0
                async for chunk in response.aiter_raw():
                    piece = chunk[skipped:]
                    skipped = max(0, skipped - len(chunk))
                    if piece:
                        yield piece
        except httpx.RequestError as error:
            server = str(error.request.url.copy_with(path="/", query=None))
            raise _errors.unreachable(server, error) from error

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _open(self, url: str, headers: Mapping[str, str]) -> AsyncGenerator[httpx.Response, None]:
        """Request *url*; follow one redirect, to a signed link, without what is sent to the gateway."""
        async with self._http.stream("GET", url, headers=headers, timeout=_READ_TIMEOUT) as response:
            if not response.has_redirect_location:
                yield response
                return
            try:
                link = response.url.join(response.headers["location"])
            except httpx.InvalidURL as error:
                raise CallFailed("INTERNAL", "the server redirects to an invalid URL") from error
        async with (
            httpx.AsyncClient(
                timeout=_READ_TIMEOUT, trust_env=not is_loopback(link.host), verify=self._ssl
            ) as plain,
            plain.stream("GET", link, headers=headers) as response,
        ):
            yield response


def parse_message(name: str, data: str, message: R) -> R:
    """Return the event *name* as *message*. Raises CallFailed if it is the failure of the stream."""
    try:
        value: Any = json.loads(data)
        if name == "stream_error":
            raise CallFailed.from_status(status_from_json(value.get("error", value)))
        return json_format.ParseDict(value, message, ignore_unknown_fields=True)
    except (ValueError, AttributeError, RecursionError, json_format.ParseError) as error:
        raise CallFailed("INTERNAL", "the stream contains something else than messages") from error


class _KeyAuth(httpx.Auth):
    """Sends the API key to the gateway only, not to a server that one of its responses names."""

    def __init__(self, server: str, api_key: str) -> None:
        self._origin, self._api_key = _origin(httpx.URL(server)), api_key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
