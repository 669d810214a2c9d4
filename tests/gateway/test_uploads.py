"""Client streams over real sockets: messages pass while the body arrives, and no part is taken for all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from google.api import httpbody_pb2
from grpc import aio
from tests.libs import lab

from reelhaul_gateway.connections import ConnectionLimits
from reelhaul_gateway.http_server import serve_http
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.upstream import GrpcUpstream

SECONDS = 20
MEBIBYTE = 1 << 20
_LIMITS = ConnectionLimits(
    total=100, per_peer=100, head_seconds=60, body_seconds=60, min_body_rate=0, total_body_bytes=1 << 30
)


@dataclass
class FakeLab:
    """The client streams of lab.v1.Lab; ``i`` of a Chunk below 0 ends its RPC with an error."""

    received: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    #: Set by a stream that was cancelled.
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Uploads are read when this is set.
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    #: Streams without more messages end when this is set.
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def sum(self, requests, context):
        total = 0
        async for chunk in self._read(requests, context):
            total += chunk.i
        return lab.message_class("lab.v1.Chunk")(i=total).SerializeToString()

    async def exchange(self, requests, context):
        async for chunk in self._read(requests, context):
            yield chunk.SerializeToString()

    async def upload(self, requests, context):
        await self.may_read.wait()
        size = 0
        async for request in requests:
            size += len(httpbody_pb2.HttpBody.FromString(request).data)
        return httpbody_pb2.HttpBody(data=b"%d" % size).SerializeToString()

    async def _read(self, requests, context):
        try:
            async for request in requests:
                chunk = lab.message_class("lab.v1.Chunk").FromString(request)
                self.received.put_nowait(chunk.i)
                if chunk.i < 0:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
                yield chunk
            # A cancelled RPC of grpc.aio ends its requests first, as a complete stream does.
            await self.may_end.wait()
        except (asyncio.CancelledError, GeneratorExit):
            # The latter if the RPC is cancelled while it sends a response.
            self.cancelled.set()
            raise


@dataclass
class LabServer:
    """A running transcoder before a FakeLab."""

    address: tuple[str, int]
    upstream: FakeLab


@pytest.fixture
async def server() -> AsyncIterator[LabServer]:
    """A transcoder on a free port, before a gRPC server on another."""
    upstream, grpc_server = FakeLab(), aio.server()
    handlers = {
        "Sum": grpc.stream_unary_rpc_method_handler(upstream.sum),
        "Exchange": grpc.stream_stream_rpc_method_handler(upstream.exchange),
        "Upload": grpc.stream_unary_rpc_method_handler(upstream.upload),
    }
    grpc_server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("lab.v1.Lab", handlers)])
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        app = Transcoder([(lab.service(), GrpcUpstream(channel))], Options(ignore_unknown_fields=False))
        serving = serve_http(
            app, "127.0.0.1:0", overloaded=app, limits=_LIMITS, keep_alive=60, drain_seconds=1
        )
        async with serving as http_port:
            yield LabServer(("127.0.0.1", http_port), upstream)
    await grpc_server.stop(None)


class Upload:
    """A request whose body is sent in chunks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, chunk: bytes) -> None:
        """Send one chunk; an empty one ends the body."""
        self.writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    async def read_head(self) -> int:
        """Return the status of the response."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1])

    async def read_until(self, end: bytes) -> None:
        """Read up to *end*."""
        async with asyncio.timeout(SECONDS):
            await self.reader.readuntil(end)

    async def read_json(self) -> tuple[int, dict]:
        """Return the status and the body of a response that has a length."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            return int(head.split()[1]), json.loads(await self.reader.readexactly(length))


@asynccontextmanager
async def uploading(server: LabServer, path: str, headers: str = "") -> AsyncIterator[Upload]:
    """Send the head of an upload to *path*."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
        writer.write(head.encode())
        yield Upload(reader, writer)
    finally:
        writer.close()


async def next_received(server: LabServer) -> object:
    """Return the next message that the upstream receives."""
    async with asyncio.timeout(SECONDS):
        return await server.upstream.received.get()


@pytest.mark.parametrize(("opening", "separator", "closing"), [(b"", b"\n", b""), (b"[", b",", b"]")])
async def test_messages_pass_while_the_body_arrives(server, opening, separator, closing) -> None:
    """The upstream has each message before the next is sent, also if a chunk ends within one."""
    async with uploading(server, "/v1/sum") as upload:
        upload.send(opening + b'{"i":1}' + separator + b'{"i"')
        assert await next_received(server) == 1
        upload.send(b":2}")
        assert await next_received(server) == 2
        upload.send(separator + b'{"i":3}' + closing)
        server.upstream.may_end.set()
        upload.send(b"")
        assert await upload.read_json() == (200, {"i": 6})


async def test_early_error_ends_the_upload(server) -> None:
    """The client gets the status of the upstream before it has sent everything; the connection lives on."""
    async with uploading(server, "/v1/sum") as upload:
        upload.send(b'{"i":-1}\n')
        status, body = await upload.read_json()
        assert (status, body["message"]) == (429, "enough")
        upload.send(b'{"i":2}\n')
        upload.send(b"")
        upload.writer.write(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await upload.read_head() == 404


@pytest.mark.parametrize("path", ["/v1/sum", "/v1/exchange"])
@pytest.mark.parametrize(
    ("chunk", "code"), [(b"x ", 400), (b'{"nope":1}', 400), (b'{"i":"' + b"x" * 5 * MEBIBYTE, 413)]
)
async def test_invalid_message_cancels_the_upload(server, path, chunk, code) -> None:
    """The upstream does not take the messages before it for the whole stream."""
    async with uploading(server, path) as upload:
        upload.send(b'{"i":1}')
        assert await next_received(server) == 1
        if path == "/v1/exchange":
            assert await upload.read_head() == 200
            await upload.read_until(b'{"result":{"i":1}}\n')
        upload.send(chunk)
        if path == "/v1/exchange":
            await upload.read_until(b'{"error":{"code":3,')
        else:
            assert (await upload.read_json())[0] == code
        async with asyncio.timeout(SECONDS):
            await server.upstream.cancelled.wait()


@pytest.mark.parametrize("path", ["/v1/sum", "/v1/exchange"])
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_disconnect_cancels_the_upload(server, path, reset) -> None:
    """A body that breaks off never looks complete to the upstream."""
    async with uploading(server, path) as upload:
        upload.send(b'{"i":1}\n')
        assert await next_received(server) == 1
        if reset:
            linger = struct.pack("ii", 1, 0)
            upload.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    async with asyncio.timeout(SECONDS):
        await server.upstream.cancelled.wait()


async def test_deadline_ends_the_upload(server) -> None:
    """A client that stops sending is answered 504 at its deadline."""
    async with uploading(server, "/v1/sum", "Grpc-Timeout: 200m\r\n") as upload:
        upload.send(b'{"i":1}\n')
        assert (await upload.read_json())[0] == 504


async def test_exchange_answers_while_the_body_arrives(server) -> None:
    """Each response arrives before the next message is sent."""
    server.upstream.may_end.set()
    async with uploading(server, "/v1/exchange") as upload:
        upload.send(b'{"i":1}')
        assert await upload.read_head() == 200
        await upload.read_until(b'{"result":{"i":1}}\n')
        upload.send(b'{"i":2}')
        await upload.read_until(b'{"result":{"i":2}}\n')
        upload.send(b"")
        await upload.read_until(b"0\r\n\r\n")


async def test_upstream_that_does_not_read_stops_the_client(server) -> None:
    """The client cannot send more than the buffers between it and the upstream hold; nothing is lost."""
    async with uploading(server, "/v1/upload") as upload:
        chunk, count = bytes(MEBIBYTE), 64
        upload.writer.transport.set_write_buffer_limits(0)
        sent = 0
        for _ in range(count):
            upload.send(chunk)
            try:
                # A machine that is slow within this time only makes the first part shorter.
                async with asyncio.timeout(0.5):
                    await upload.writer.drain()
            except TimeoutError:
                break
            sent += 1
        assert sent < count // 2
        server.upstream.may_read.set()
        for _ in range(count - sent - 1):
            upload.send(chunk)
        upload.send(b"")
        assert await upload.read_head() == 200
        async with asyncio.timeout(SECONDS):
            assert await upload.reader.readexactly(8) == b"%d" % (count * MEBIBYTE)
