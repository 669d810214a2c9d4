"""Clients that read slowly, or not at all: the gateway keeps little for them, and the upstream waits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.gateway.fake_services import FLOOD_BYTES, GatewayHarness

SECONDS = 30
MEBIBYTE = 1 << 20
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# The buffers between the two: of both sockets, of HTTP/2 and of the gateway.
_MAX_BUFFERED = 24 * MEBIBYTE
_STREAMS = {
    "ndjson": "Accept: application/x-ndjson\r\n",
    "sse": "Accept: text/event-stream\r\n",
    "array": "Accept: application/json\r\n",
    "websocket": (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    ),
}


@asynccontextmanager
async def watching(
    harness: GatewayHarness, headers: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Request the watch of ``flood`` on a socket with small buffers."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, harness.address)
    reader, writer = await asyncio.open_connection(sock=client, limit=4096)
    try:
        writer.write(f"GET /v1/jobs/flood:watch HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        yield reader, writer
    finally:
        writer.close()


async def test_pings_of_a_client_that_does_not_read_end_the_connection(harness) -> None:
    """The pongs would be kept for it without limit."""
    ping = b"\x89\x80\0\0\0\0" * 1000
    async with asyncio.timeout(SECONDS), watching(harness, _STREAMS["websocket"]) as (_, writer):
        await wait_until_upstream_waits(harness)
        with pytest.raises(ConnectionError):
            await write_endlessly(writer, ping)


async def write_endlessly(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send *data* again and again."""
    while True:
        writer.write(data)
        await writer.drain()


async def wait_until_upstream_waits(harness: GatewayHarness) -> int:
    """Return how many messages the upstream could send once it sends no more.

    A machine that is slow only makes the number smaller.
    """
    sent = -1
    while sent != harness.jobs.flooded or not sent:
        sent = harness.jobs.flooded
        await asyncio.sleep(0.2)
        if sent * FLOOD_BYTES > _MAX_BUFFERED:
            break
    return sent


def resident_bytes() -> int:
    """Return the resident memory of this process, which runs the gateway and its upstream."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("headers", _STREAMS.values(), ids=_STREAMS)
async def test_client_that_does_not_read_stops_the_upstream(harness, headers) -> None:
    """The upstream can send as much as the buffers hold, not its GiB, and goes on when the client reads."""
    memory = resident_bytes()
    async with asyncio.timeout(SECONDS), watching(harness, headers) as (reader, _):
        first = await wait_until_upstream_waits(harness)
        assert first * FLOOD_BYTES < _MAX_BUFFERED
        assert resident_bytes() - memory < 2 * _MAX_BUFFERED
        for _ in range(first + 1):
            await reader.readexactly(FLOOD_BYTES)
        assert harness.jobs.flooded > first
        second = await wait_until_upstream_waits(harness)
        assert (second - first) * FLOOD_BYTES < 2 * _MAX_BUFFERED
