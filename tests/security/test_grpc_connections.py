"""Connections to gRPC ports: silent, idle and pinging ones are closed; those that are used stay."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reelhaul_runtime.identity import NoAuthentication
from reelhaul_runtime.rpc.server import ConnectionLimits, serving

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Frames of RFC 9113: length, type, flags, stream.
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)
_GOAWAY = 7
_CHECK = health_pb2.HealthCheckRequest()


@asynccontextmanager
async def running_server(limits: ConnectionLimits) -> AsyncIterator[int]:
    """Serve health alone; yield the port."""
    authenticator = NoAuthentication("secret")
    async with serving(
        "127.0.0.1:0", [], authenticator=authenticator, drain_seconds=0, limits=limits
    ) as port:
        yield port


@asynccontextmanager
async def connections(port: int, count: int, greeting: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open *count* connections that send *greeting* and nothing more."""
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(greeting)
            readers.append(reader)
        yield readers


async def wait_closed(reader: asyncio.StreamReader) -> bytes:
    """Return what the server sends until it closes the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def check(port: int) -> int:
    """Call health over a new connection; return the status."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(_CHECK, timeout=20, wait_for_ready=True)).status)


SILENT = {
    "silent": b"",
    "half a preface": _PREFACE[:10],
    "preface without settings": _PREFACE,
    "another protocol": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no text": bytes(100),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
}


@pytest.mark.parametrize("greeting", SILENT.values(), ids=SILENT)
async def test_connections_that_speak_no_http2(greeting: bytes) -> None:
    """A peer that does not speak HTTP/2 in time is disconnected; one that does is served meanwhile."""
    limits = ConnectionLimits(handshake_seconds=0.5)
    async with running_server(limits) as port, connections(port, 20, greeting) as readers:
        assert await check(port) == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(10):
            await asyncio.gather(*map(wait_closed, readers))


async def test_connections_beyond_the_limit() -> None:
    """Connections beyond the limit are closed at once, and a place that becomes free serves a caller."""
    limits = ConnectionLimits(max_connections=8, handshake_seconds=4)
    async with running_server(limits) as port, connections(port, 30, b"") as readers:
        async with asyncio.timeout(3.5):
            closed = {asyncio.create_task(wait_closed(reader)) for reader in readers}
            pending = closed
            while len(pending) > 8:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        assert await check(port) == health_pb2.HealthCheckResponse.SERVING
        await asyncio.gather(*closed)


async def test_idle_connections() -> None:
    """A connection without calls is closed; a call that lasts longer, and the next call, are served."""
    limits = ConnectionLimits(idle_seconds=1)
    async with (
        running_server(limits) as port,
        connections(port, 5, _PREFACE + _SETTINGS) as readers,
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(_CHECK)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(10):
            await asyncio.gather(*map(wait_closed, readers))
        assert not watch.done()
        watch.cancel()
        async with connections(port, 1, _PREFACE + _SETTINGS) as (later,), asyncio.timeout(10):
            await wait_closed(later)
        assert (await stub.Check(_CHECK, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING


async def test_pings_without_end() -> None:
    """A peer that does nothing but ping is disconnected, with a reason; a few pings are answered."""
    async with running_server(ConnectionLimits()) as port:
        async with connections(port, 1, _PREFACE + _SETTINGS + _PING * 1000) as (flood,), asyncio.timeout(10):
            assert b"too_many_pings" in await wait_closed(flood)
        async with connections(port, 1, _PREFACE + _SETTINGS + _PING) as (honest,), asyncio.timeout(10):
            # SETTINGS, its acknowledgement and more come first.
            while True:
                header = await honest.readexactly(9)
                await honest.readexactly(int.from_bytes(header[:3]))
                assert header[3] != _GOAWAY
                if header[3:5] == bytes([6, 1]):
                    break
        assert await check(port) == health_pb2.HealthCheckResponse.SERVING


def test_default_limits() -> None:
    """By default the connections leave half of the file descriptors to everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    options = dict(ConnectionLimits().options)
    assert 0 < options["grpc.max_allowed_incoming_connections"] <= max(1, soft // 2)
    assert options["grpc.server_handshake_timeout_ms"] <= 10_000
    assert options["grpc.max_connection_idle_ms"] <= 120_000
