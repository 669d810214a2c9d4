"""The HTTP port of storage against clients that are silent, slow, too many, or send no HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import uuid4

import pytest

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_storage.digests import Digests
from reelhaul_storage.http_server import LinkServerLimits, serving_links
from reelhaul_storage.local_links import LinkKeys, LocalLink, LocalLinkSigner, Signature
from reelhaul_storage.model import Artifact, LinkTerms
from reelhaul_storage.service.links import LinkedArtifacts

SECONDS = 15
NOW = datetime.now(UTC)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def build_artifact(size: int) -> Artifact:
    """Return an artifact of *size* zeros."""
    content = Digests(size, hashlib.sha256().hexdigest(), 0)
    kind = ArtifactInfo.Kind.KIND_UNSPECIFIED
    id_, later = str(uuid4()), NOW + timedelta(days=1)
    return Artifact(
        id_, "local", "a.bin", "video/mp4", content, "key", "", 0, kind, "", {}, NOW, NOW, later, None
    )


class Zeros:
    """LinkedArtifacts that accepts every link, to an artifact of zeros."""

    def __init__(self, size: int) -> None:
        self.artifact = build_artifact(size)
        self.reads = 0

    async def get(self, link: LocalLink, signature: Signature, address: str) -> Artifact:
        return self.artifact

    async def read(self, artifact: Artifact, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        self.reads += 1
        try:
            while length:
                piece = bytes(min(length, 512 << 10))
                length -= len(piece)
                yield piece
        finally:
            self.reads -= 1


class LinkServer:
    """A running HTTP port, the request for its artifact, and the connections that a test opens."""

    def __init__(self, linked: Zeros, address: str, request: bytes) -> None:
        self.linked, self.request = linked, request
        self.host, _, port = address.partition(":")
        self.port = int(port)

    async def connect(self, content: bytes = b"") -> Connection:
        """Open a connection and send *content*."""
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=4096)
        writer.write(content)
        return reader, writer

    async def request_status(self) -> int:
        """Return the status of a request on a new connection."""
        reader, writer = await self.connect(self.request.replace(b"GET", b"HEAD"))
        try:
            return await read_status(reader)
        finally:
            writer.close()


@asynccontextmanager
async def running(size: int = 1000, **limits: float) -> AsyncIterator[LinkServer]:
    """Run the HTTP port with *limits*."""
    linked = Zeros(size)
    signer = LocalLinkSigner(LinkKeys(["k" * 32]), "")
    path = await signer.sign(linked.artifact, LinkTerms(NOW + timedelta(hours=1)))
    request = f"GET {path} HTTP/1.1\r\nHost: media\r\n\r\n".encode()
    serving = serving_links(
        cast("LinkedArtifacts", linked),
        "127.0.0.1:0",
        drain_seconds=0,
        limits=LinkServerLimits(**limits),  # type: ignore[arg-type]
    )
    async with serving as address:
        yield LinkServer(linked, address, request)


async def read_status(reader: asyncio.StreamReader) -> int:
    """Return the status of the next response, 0 if the connection is closed without one."""
    async with asyncio.timeout(SECONDS):
        try:
            line = await reader.readline()
        except ConnectionError:
            return 0
    return int(line.split()[1]) if line else 0


async def wait_closed(reader: asyncio.StreamReader) -> bytes:
    """Wait until the server has closed the connection; return what it sent."""
    received = b""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                received += piece
    return received


@pytest.mark.parametrize("sent", [b"", b"GET /art", b"GET /a HTTP/1.1\r\nHost: media\r\nX-A: b\r\n"])
async def test_silent_client_is_disconnected(sent):
    """A connection without a whole request is closed after the limit; one with a request is served."""
    async with running(idle_seconds=0.5) as server:
        reader, writer = await server.connect(sent)
        assert await server.request_status() == 200
        assert await wait_closed(reader) == b""
        writer.close()


async def test_idle_client_is_disconnected_after_its_response():
    """A kept connection serves the next request, and is closed when none comes."""
    async with running(idle_seconds=0.5) as server:
        reader, writer = await server.connect(server.request)
        for _ in range(2):
            assert await read_status(reader) == 200
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Content-Length: 1000" in head or b"content-length: 1000" in head
            await reader.readexactly(1000)
            if not _:
                writer.write(server.request)
        assert await wait_closed(reader) == b""
        writer.close()


async def test_slow_reader_is_disconnected_and_its_file_closed():
    """A client that takes nothing of a large file holds it no longer than its bytes may take."""
    async with running(1 << 30, min_seconds=0.5, min_bytes_per_second=1 << 40) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (server.host, server.port))
            await loop.sock_sendall(client, server.request)
            assert (await loop.sock_recv(client, 12)).startswith(b"HTTP/1.1 200")
            assert server.linked.reads == 1
            async with asyncio.timeout(SECONDS):
                while server.linked.reads:  # noqa: ASYNC110 - the server's own task has no Event
                    await asyncio.sleep(0.01)
        assert await server.request_status() == 200


async def test_stalled_download_does_not_hold_up_the_end():
    """When storage stops, a client that takes nothing of its download is disconnected soon."""
    async with asyncio.timeout(SECONDS):
        async with running(1 << 30) as server:
            reader, writer = await server.connect(server.request)
            assert await read_status(reader) == 200
            assert server.linked.reads == 1
        assert server.linked.reads == 0
    await wait_closed(reader)
    writer.close()


async def test_one_client_leaves_connections_to_others():
    """Slow downloads of one address are limited, and another request of it is 503 until one of them ends."""
    async with running(1 << 30, connections=8, downloads_per_client=2) as server:
        opened = [await server.connect(server.request) for _ in range(2)]
        assert [await read_status(reader) for reader, _ in opened] == [200] * 2
        reader, writer = await server.connect(server.request)
        assert await read_status(reader) == 503
        assert b"OVERLOADED" in await wait_closed(reader)
        assert await server.request_status() == 200
        writer.close()
        for _, held in opened:
            held.close()
        async with asyncio.timeout(SECONDS):
            while server.linked.reads:  # noqa: ASYNC110 - the server's own task has no Event
                await asyncio.sleep(0.01)
        reader, writer = await server.connect(server.request)
        assert await read_status(reader) == 200
        writer.close()


async def test_connections_beyond_the_limit_are_refused_until_others_end():
    """Too many connections are 503 at once; when they end, the next one is served."""
    async with running(connections=3, idle_seconds=60) as server:
        opened = [await server.connect(server.request) for _ in range(3)]
        assert [await read_status(reader) for reader, _ in opened] == [200] * 3
        reader, writer = await server.connect(server.request)
        assert await read_status(reader) == 503
        writer.close()
        for _, held in opened:
            held.close()
            await held.wait_closed()
        async with asyncio.timeout(SECONDS):
            while await server.request_status() != 200:
                pass


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /a\x00b HTTP/1.1\r\nHost: media\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: media\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(sent):
    """TLS, endless lines, hundreds of headers and two lengths are 400 and closed; others are served."""
    async with running() as server:
        reader, writer = await server.connect(sent)
        response = await wait_closed(reader)
        assert response.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        assert b"Traceback" not in response
        writer.close()
        assert await server.request_status() == 200


async def test_endless_pipeline_is_bounded(caplog):
    """Requests that are sent without waiting are answered in order, not collected without limit."""
    async with running() as server:
        reader, writer = await server.connect(server.request.replace(b"GET", b"HEAD") * 500)
        for _ in range(500):
            assert await read_status(reader) == 200
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
