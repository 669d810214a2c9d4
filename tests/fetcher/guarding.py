"""What the guard's tests are made of: sites that remember who came, and a guard in this process."""

from __future__ import annotations

import asyncio
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from reelhaul_fetcher.guard.addresses import Rules
from reelhaul_fetcher.guard.dialer import Dialer, Upstream
from reelhaul_fetcher.guard.proxy import Limits, Proxy
from reelhaul_fetcher.guard.session import ProxySession

#: Stands for a public address in tests: it alone is let through.
PUBLIC = "127.0.0.2"
#: Everything that was connected to from this process: (host, port).
CONNECTED: list[tuple[str, int]] = []

Names = dict[str, Sequence[str]] | Callable[[str], Awaitable[Sequence[str]]]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        CONNECTED.append(arguments[1][:2])


# Python's own witness: it cannot be bypassed by what is tested, nor removed.
sys.addaudithook(_watch)


@dataclass
class Site:
    """A server that answers by path, raw bytes if need be."""

    port: int = 0
    accepted: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    #: By path: the whole answer, after which the connection is closed if it says so.
    answers: dict[str, bytes] = field(default_factory=dict)
    #: Paths after whose answer the connection is closed, whatever the answer says.
    closing: set[str] = field(default_factory=set)
    #: Paths at whose end the connection stays open and silent.
    hanging: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer request after request."""
        self.accepted += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.bodies.append(await _body(reader, head))
        path = head.split(b" ")[1].decode()
        writer.write(self.answers.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
        await writer.drain()
        if path in self.hanging:
            await reader.read()
        return path not in self.closing


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        return await reader.readuntil(b"0\r\n\r\n")
    length = fields.partition(b"content-length: ")[2].partition(b"\r")[0]
    return await reader.readexactly(int(length or b"0"))


@asynccontextmanager
async def a_site(host: str = PUBLIC, port: int = 0) -> AsyncIterator[Site]:
    """A site on *host*; the same *port* on another host is another site."""
    site = Site()
    server = await asyncio.start_server(site.serve, host, port)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


@asynccontextmanager
async def two_sites() -> AsyncIterator[tuple[Site, Site]]:
    """A public site, and one at 127.0.0.1 on the same port, which is free at both addresses."""
    async with AsyncExitStack() as stack:
        while True:
            public = await stack.enter_async_context(a_site())
            try:
                inside = await stack.enter_async_context(a_site("127.0.0.1", public.port))
            except OSError:
                continue  # On a busy machine it may be another's; the next will do.
            break
        yield public, inside


@dataclass
class Answer:
    """An answer as the client of a proxy sees it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def why(self) -> str:
        """Why the guard refused; empty when it did not."""
        return self.fields.get("x-reelhaul-guard", "")

    @property
    def failure(self) -> str:
        """Why the guard could not carry what it allows; empty when it could."""
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

    async def ask(self, method: str, target: str, *fields: str, body: bytes = b"", pass_: str = "") -> Answer:
        """Ask the proxy, showing the pass *pass_* (name:secret)."""
        shown = [f"Proxy-Authorization: Basic {b64encode(pass_.encode()).decode()}"] if pass_ else []
        lines = [f"{method} {target} HTTP/1.1", "Host: ignored.test", *shown, *fields, "", ""]
        await self.send("\r\n".join(lines).encode() + body)
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, read by its own framing."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
        }
        status = int(head[0].split(" ")[1])
        if method == "HEAD" or status == 100 or (method == "CONNECT" and status == 200):
            return Answer(status, fields, b"")
        if "content-length" in fields:
            return Answer(status, fields, await self.reader.readexactly(int(fields["content-length"])))
        if fields.get("transfer-encoding") == "chunked":
            return Answer(status, fields, await self._chunked())
        return Answer(status, fields, await self.reader.read())

    async def until_cut(self) -> int:
        """Read until the other side breaks the connection off; how many bytes came before."""
        got = 0
        with suppress(ConnectionResetError):
            while piece := await self.reader.read(1 << 16):
                got += len(piece)
            raise AssertionError("closed in order")
        return got

    async def _chunked(self) -> bytes:
        body = b""
        while size := int((await self.reader.readline()).partition(b";")[0], 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


@asynccontextmanager
async def a_client(port: int) -> AsyncIterator[Client]:
    """A connection to the proxy at *port*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@dataclass
class Door:
    """A guard in this process, with a pass open."""

    proxy: Proxy
    port: int
    pass_: str = "x:secret"

    @property
    def account(self) -> ProxySession:
        """The pass's account."""
        return self.proxy.accounts["x"]

    async def ask(self, method: str, target: str, *fields: str, body: bytes = b"") -> Answer:
        """Ask on a connection of its own."""
        async with a_client(self.port) as client:
            return await client.ask(method, target, *fields, body=body, pass_=self.pass_)


@asynccontextmanager
async def a_guard(
    names: Names | None = None,
    *,
    upstream: str = "",
    limits: Limits | None = None,
    byte_limit: int = 0,
    seconds: float = 0,
    allow_networks: Sequence[str] = (f"{PUBLIC}/32",),
    ports: Sequence[int] = (),
) -> AsyncIterator[Door]:
    """A guard that finds names in *names*; its pass ``x:secret`` has *byte_limit* and *seconds*."""
    behind = Upstream.of(upstream) if upstream else None
    dialer = Dialer(Rules.of(allow_networks, ports), _resolver(names or {}), 5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener, dialer, limits or Limits(), {"": behind})
        proxy.open("x", "secret", byte_limit, seconds)
        serving = asyncio.create_task(proxy.serve())
        try:
            yield Door(proxy, listener.getsockname()[1])
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def _resolver(names: Names) -> Callable[[str], Awaitable[Sequence[str]]]:
    if callable(names):
        return names

    async def known(host: str) -> Sequence[str]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return names[host]

    return known
