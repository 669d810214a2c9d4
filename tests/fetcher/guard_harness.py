"""Harness of the guard's tests: sites that record their requests, a proxy client, a guard in this process."""

from __future__ import annotations

import asyncio
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from reelhaul_fetcher.guard.dialer import Dialer, Upstream
from reelhaul_fetcher.guard.proxy import Limits, Proxy
from reelhaul_fetcher.guard.session import ProxySession
from reelhaul_runtime.addresses import Rules

#: Stands for a public address in tests: the only loopback address that is allowed.
PUBLIC = "127.0.0.2"
#: Every connection attempt of this process: (host, port).
CONNECTED: list[tuple[str, int]] = []

Names = dict[str, Sequence[str]] | Callable[[str], Awaitable[Sequence[str]]]


def _record_connect(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        CONNECTED.append(arguments[1][:2])


# An audit hook: the tested code can neither bypass nor remove it.
sys.addaudithook(_record_connect)


@dataclass
class Site:
    """A server that answers by path, with raw bytes if a test needs them."""

    port: int = 0
    accepted: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    #: The whole response by path.
    responses: dict[str, bytes] = field(default_factory=dict)
    #: Paths after whose response the connection is closed, whatever the response says.
    closing: set[str] = field(default_factory=set)
    #: Paths after whose response the connection stays open and silent.
    hanging: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.accepted += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._respond(reader, writer):
                pass
        writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.bodies.append(await _read_body(reader, head))
        path = head.split(b" ")[1].decode()
        writer.write(self.responses.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
        await writer.drain()
        if path in self.hanging:
            await reader.read()
        return path not in self.closing


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        return await reader.readuntil(b"0\r\n\r\n")
    length = fields.partition(b"content-length: ")[2].partition(b"\r")[0]
    return await reader.readexactly(int(length or b"0"))


@asynccontextmanager
async def running_site(host: str = PUBLIC, port: int = 0) -> AsyncIterator[Site]:
    """Run a site on *host*; the same *port* on another host is another site."""
    site = Site()
    server = await asyncio.start_server(site.serve, host, port)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


@asynccontextmanager
async def public_and_internal_site() -> AsyncIterator[tuple[Site, Site]]:
    """Run a public site, and an internal one at 127.0.0.1 on the same port."""
    async with AsyncExitStack() as stack:
        while True:
            public = await stack.enter_async_context(running_site())
            try:
                internal = await stack.enter_async_context(running_site("127.0.0.1", public.port))
            except OSError:
                continue  # The port is in use at 127.0.0.1: try the next one.
            break
        yield public, internal


@dataclass
class Response:
    """A response as the client of a proxy sees it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def refusal(self) -> str:
        """Why the guard refused the request; empty if it did not."""
        return self.fields.get("x-reelhaul-guard", "")

    @property
    def failure(self) -> str:
        """Why an allowed request failed in the guard; empty if it did not."""
        return self.fields.get("x-reelhaul-guard-failure", "")


class Client:
    """One connection to a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(content)
        await self.writer.drain()

    async def request(
        self, method: str, target: str, *fields: str, body: bytes = b"", credentials: str = ""
    ) -> Response:
        """Send a request to the proxy with *credentials* (name:secret) and read the response."""
        encoded = b64encode(credentials.encode()).decode()
        authorization = [f"Proxy-Authorization: Basic {encoded}"] if credentials else []
        lines = [f"{method} {target} HTTP/1.1", "Host: ignored.test", *authorization, *fields, "", ""]
        await self.send("\r\n".join(lines).encode() + body)
        return await self.read_response(method)

    async def read_response(self, method: str = "GET") -> Response:
        """Read the next response up to the end that its own framing defines."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
        }
        status = int(head[0].split(" ")[1])
        if method == "HEAD" or status == 100 or (method == "CONNECT" and status == 200):
            return Response(status, fields, b"")
        if "content-length" in fields:
            return Response(status, fields, await self.reader.readexactly(int(fields["content-length"])))
        if fields.get("transfer-encoding") == "chunked":
            return Response(status, fields, await self._read_chunked())
        return Response(status, fields, await self.reader.read())

    async def read_until_reset(self) -> int:
        """Read until the other side resets the connection; return how many bytes came before."""
        received = 0
        with suppress(ConnectionResetError):
            while data := await self.reader.read(1 << 16):
                received += len(data)
            raise AssertionError("closed in order")
        return received

    async def _read_chunked(self) -> bytes:
        body = b""
        while size := int((await self.reader.readline()).partition(b";")[0], 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


@asynccontextmanager
async def proxy_client(port: int) -> AsyncIterator[Client]:
    """Connect to the proxy at *port*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@dataclass
class InProcessGuard:
    """A guard in this process, with one open session."""

    proxy: Proxy
    port: int
    credentials: str = "x:secret"

    @property
    def session(self) -> ProxySession:
        """The open session."""
        return self.proxy.sessions["x"]

    async def request(self, method: str, target: str, *fields: str, body: bytes = b"") -> Response:
        """Send a request on a connection of its own."""
        async with proxy_client(self.port) as client:
            return await client.request(method, target, *fields, body=body, credentials=self.credentials)


@asynccontextmanager
async def in_process_guard(
    names: Names | None = None,
    *,
    upstream: str = "",
    limits: Limits | None = None,
    byte_limit: int = 0,
    seconds: float = 0,
    allow_networks: Sequence[str] = (f"{PUBLIC}/32",),
    ports: Sequence[int] = (),
    denied_sites: Sequence[str] = (),
) -> AsyncIterator[InProcessGuard]:
    """Run a guard that resolves names from *names*; its session has *byte_limit* and *seconds*."""
    upstream_proxy = Upstream.parse(upstream) if upstream else None
    dialer = Dialer(Rules.parse(allow_networks, ports), _resolver(names or {}), 5, denied_sites)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener, dialer, limits or Limits(), {"": upstream_proxy})
        proxy.open_session("x", "secret", byte_limit, seconds)
        serving = asyncio.create_task(proxy.serve())
        try:
            yield InProcessGuard(proxy, listener.getsockname()[1])
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def _resolver(names: Names) -> Callable[[str], Awaitable[Sequence[str]]]:
    if callable(names):
        return names

    async def resolve(host: str) -> Sequence[str]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return names[host]

    return resolve
