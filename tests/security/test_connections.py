"""Idle, slow and endless connections: they end, and the gateway serves everybody else meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from tests.gateway.fake_services import CONTENT, GatewayHarness, running_gateway
from tests.servers import WITHOUT_METRICS

from reelhaul_runtime import listeners
from reelhaul_runtime.tasks import cancel_and_wait
from reelhaul_runtime.up import ports, probes

REQUEST = b"GET /v1/jobs/018f HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
SECONDS = 20
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def harness() -> AsyncIterator[GatewayHarness]:
    """A gateway with short time limits, and its fake services."""
    async with running_gateway(gateway_head_seconds=1, gateway_body_seconds=8) as running:
        yield running


@asynccontextmanager
async def connections(harness: GatewayHarness, count: int = 1, host: str = "127.0.0.1"):
    """Open *count* connections to the gateway from *host*."""
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*harness.address, local_addr=(host, 0))
            stack.callback(writer.close)
            opened.append((reader, writer))
        yield opened


async def read_status(reader: asyncio.StreamReader) -> int:
    """Return the status of the next response, 0 if the connection is closed without one."""
    async with asyncio.timeout(SECONDS):
        try:
            line = await reader.readline()
        except ConnectionError:
            return 0
    return int(line.split()[1]) if line else 0


async def wait_closed(reader: asyncio.StreamReader) -> None:
    """Wait until the gateway has closed the connection."""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            await reader.read()


async def write_endlessly(writer: asyncio.StreamWriter, data: bytes, pause: float = 0) -> None:
    """Send *data* again and again until the gateway closes the connection."""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(pause)


async def get_job(harness: GatewayHarness, host: str = "127.0.0.1") -> int:
    """Send a request on a new connection; return its status."""
    async with connections(harness, host=host) as [(reader, writer)]:
        writer.write(REQUEST)
        return await read_status(reader)


async def test_thousand_idle_connections_do_not_disturb_a_client() -> None:
    """A client is served beside 1,000 silent connections, and these are closed after the time for a head."""
    async with (
        running_gateway(gateway_head_seconds=6) as harness,
        connections(harness, 1000) as idle,
        httpx.AsyncClient(base_url=harness.url, trust_env=False) as client,
    ):
        for _ in range(20):
            assert (await client.get("/v1/jobs/018f")).status_code == 200
        assert await probes.is_alive(harness.url)
        for reader, _ in idle:
            await wait_closed(reader)
        assert (await client.get("/v1/jobs/018f")).status_code == 200


async def test_new_connections_replace_idle_ones() -> None:
    """With twice as many silent connections as allowed, from any peer, requests are still served."""
    limits = {"gateway_max_connections": 40, "gateway_max_connections_per_peer": 30}
    async with running_gateway(**limits) as harness:
        async with connections(harness, 80, "127.0.0.2"), connections(harness, 80, "127.0.0.3"):
            for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
                assert await get_job(harness, host) == 200
        async with connections(harness, 80) as partial:
            for _, writer in partial:
                writer.write(REQUEST[:20])
            assert await get_job(harness) == 200


async def test_peer_with_too_many_requests_leaves_others_alone() -> None:
    """A peer at its limit gets 503 with advice to retry; another peer is served."""
    async with running_gateway(gateway_max_connections_per_peer=5) as harness:
        async with connections(harness, 5, "127.0.0.2") as busy:
            for reader, writer in busy:
                writer.write(b"GET /v1/jobs/endless:watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await read_status(reader) == 200
            async with connections(harness, host="127.0.0.2") as [(reader, writer)]:
                writer.write(REQUEST)
                async with asyncio.timeout(SECONDS):
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503")
                assert b"retry-after: 1" in head
                assert json.loads(body)["details"][0]["reason"] == "OVERLOADED"
            assert await get_job(harness, "127.0.0.1") == 200
        async with asyncio.timeout(SECONDS):
            while await get_job(harness, "127.0.0.2") != 200:  # noqa: ASYNC110 - the gateway notices soon
                await asyncio.sleep(0.05)


async def test_gateway_at_its_limit_is_alive() -> None:
    """Health checks use reserved connections, which neither silent nor slow clients can occupy."""
    async with (
        running_gateway(gateway_max_connections=5) as harness,
        connections(harness, 5) as busy,
    ):
        for reader, writer in busy:
            writer.write(b"GET /v1/jobs/endless:watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await read_status(reader) == 200
        async with connections(harness, 100) as more:
            for _, writer in more:
                writer.write(POST + b"Content-Length: 9\r\n\r\n")
            assert await probes.is_alive(harness.url)
            assert await probes.is_ready(harness.url, "")
            assert await get_job(harness) == 503


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: ", id="value"),
        pytest.param(b"GET / HTTP/1.1\r\nX", id="name"),
        pytest.param(b"GET /", id="url"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nX: ", id="second request"),
    ],
)
async def test_endless_head_is_refused(harness, start) -> None:
    """No more than the limit of a head is kept."""
    async with connections(harness) as [(reader, writer)]:
        writer.write(start)
        sent = 0
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"x" * 1000)
                    sent += 1000
                    await writer.drain()
                    await asyncio.sleep(0)
        # The buffers of the sockets hold more than was read.
        assert sent < 16 << 20
        await wait_closed(reader)


async def test_large_heads_up_to_the_limit_are_served(harness) -> None:
    """Long queries and cookies are no attack; more is 431."""
    for size, status in ((30_000, 200), (70_000, 431)):
        async with connections(harness) as [(reader, writer)]:
            writer.write(REQUEST[:-2] + b"Cookie: " + b"x" * size + b"\r\n\r\n")
            assert await read_status(reader) == status
    for count, status in ((90, 200), (200, 431)):
        async with connections(harness) as [(reader, writer)]:
            writer.write(REQUEST[:-2] + b"X: y\r\n" * count + b"\r\n")
            assert await read_status(reader) == status


async def test_refusals_say_why(harness, caplog) -> None:
    """A request that is refused before it is one gets a google.rpc.Status with a reason, as all errors do.

    The access log has a line with its request id, status and client.
    """
    caplog.set_level(logging.INFO, "reelhaul_gateway.access")
    for request, code in (
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (REQUEST[:-2] + b"X: y\r\n" * 200, 431),
    ):
        async with connections(harness) as [(reader, writer)]:
            writer.write(request + b"\r\n")
            async with asyncio.timeout(SECONDS):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d" % code)
            assert b"content-type: application/json" in head
            assert json.loads(body)["details"][0]["reason"] == "FIELD_INVALID"
            assert re.search(rb"\r\nx-request-id: [0-9a-f]{16}(\r\n|$)", head)
    logged = [record for record in caplog.records if record.message == "request refused"]
    assert [record.status for record in logged] == [400, 431]


async def test_slow_head_is_refused(harness) -> None:
    """A head of one byte per moment ends with 408, also on a connection that has served a request."""
    for before in (b"", REQUEST):
        async with connections(harness) as [(reader, writer)]:
            if before:
                writer.write(before)
                async with asyncio.timeout(SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            sending = asyncio.create_task(write_endlessly(writer, b"G" if not before else b"\r\n", 0.2))
            assert await read_status(reader) in (400, 408, 0)
            await sending


async def test_slow_body_is_refused(harness) -> None:
    """A body of one byte per second is below the minimum rate: 408."""
    async with connections(harness) as [(reader, writer)]:
        writer.write(POST + b"Content-Length: 1000000\r\n\r\n")
        sending = asyncio.create_task(write_endlessly(writer, b" ", 1))
        assert await read_status(reader) == 408
        await wait_closed(reader)
        await sending
    assert not harness.jobs.create_requests


async def test_bodies_of_all_requests_are_bounded_together() -> None:
    """Large bodies that are never finished cannot fill the memory; small requests are served beside them."""
    body = b"x" * 900_000
    async with running_gateway(
        gateway_max_request_bytes=1 << 20, gateway_max_total_body_bytes=4 << 20
    ) as harness:
        async with connections(harness, 5) as unfinished:
            for _, writer in unfinished:
                writer.write(POST + b"Content-Length: 1000000\r\n\r\n" + body)
            # Those whose bytes arrive last are refused, not always the one that was sent last.
            statuses = [asyncio.create_task(read_status(reader)) for reader, _ in unfinished]
            refused, held = await asyncio.wait(statuses, return_when=asyncio.FIRST_COMPLETED)
            # 0: the refusal was lost, since the rest of the body was still on its way.
            assert held
            assert all(status.result() in (503, 0) for status in refused)
            await cancel_and_wait(*statuses)
            async with httpx.AsyncClient(base_url=harness.url, trust_env=False) as client:
                for _ in range(30):
                    assert (await client.post("/v1/jobs", json={"url": "x" * 20_000})).status_code == 200
        async with httpx.AsyncClient(base_url=harness.url, trust_env=False) as client:
            for _ in range(10):
                assert (await client.post("/v1/jobs", json={"url": "x" * 900_000})).status_code == 200


async def test_silent_body_is_refused(harness) -> None:
    """A body that does not come occupies its connection for the grace period only."""
    async with connections(harness, 2) as [(reader, writer), (other_reader, other_writer)]:
        writer.write(POST + b"Content-Length: 10\r\n\r\n")
        other_writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        assert await read_status(other_reader) == 200
        assert await read_status(reader) == 408
        await wait_closed(other_reader)


async def test_body_at_a_moderate_rate_is_accepted(harness) -> None:
    """A client on a slow line may take several seconds."""
    body = json.dumps({"url": "https://media.example/1"}).encode() + b" " * 4000
    async with connections(harness) as [(reader, writer)]:
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 600):
            writer.write(body[start : start + 600])
            await writer.drain()
            await asyncio.sleep(0.9)
        assert await read_status(reader) == 200


@pytest.mark.parametrize(
    ("start", "more"),
    [
        pytest.param(b"1;x=", b"y" * 1000, id="chunk extension"),
        pytest.param(b"2\r\n{}\r\n0\r\nX: ", b"y" * 1000, id="trailer"),
        pytest.param(b"2\r\n{}\r\n0\r\n", b"X: y\r\n" * 100, id="trailers"),
    ],
)
async def test_endless_framing_of_a_body_is_refused(harness, start, more) -> None:
    """Extensions and trailers without end are cut off long before the time limit of the body."""
    async with connections(harness) as [(reader, writer)]:
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + start)
        async with asyncio.timeout(5):
            await asyncio.gather(write_endlessly(writer, more), wait_closed(reader))


async def test_chunked_body_with_trailers_is_accepted(harness) -> None:
    """Single bytes as chunks are allowed; trailers are ignored, and not taken for fields of the head."""
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"url": "https://media.example/1"}')
    async with connections(harness) as [(reader, writer)]:
        writer.write(
            POST
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + chunks
            + b"0\r\nHost: x\r\nIdempotency-Key: k\r\n\r\n"
        )
        assert await read_status(reader) == 200
    assert not harness.jobs.create_requests[0].request_id


async def test_pipelined_requests_are_bounded(harness) -> None:
    """A few requests in advance are answered in order; thousands end the connection."""
    async with connections(harness) as [(reader, writer)]:
        writer.write(REQUEST * 10)
        async with asyncio.timeout(SECONDS):
            for _ in range(10):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    async with connections(harness) as [(reader, writer)]:
        writer.write(b"GET /v1/jobs/slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + REQUEST * 1000)
        await wait_closed(reader)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
async def test_client_that_does_not_read_is_disconnected(monkeypatch) -> None:
    """A client that takes nothing of its download is disconnected; one that reads gets all of it."""
    monkeypatch.setattr(listeners, "SEND_TIMEOUT_SECONDS", 1)
    request = b"GET /v1/artifacts/video:download HTTP/1.1\r\nHost: localhost\r\n\r\n"
    loop = asyncio.get_running_loop()
    async with running_gateway() as harness:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, harness.address)
            await loop.sock_sendall(client, request)
            async with asyncio.timeout(SECONDS):
                while _is_established(harness.address[1], client.getsockname()[1]):  # noqa: ASYNC110 - the kernel has no Event
                    await asyncio.sleep(0.1)
        async with httpx.AsyncClient(base_url=harness.url, trust_env=False) as reading:
            assert (await reading.get("/v1/artifacts/video:download")).content == CONTENT


def _is_established(local_port: int, remote_port: int) -> bool:
    """Return whether the kernel has the connection of these loopback ports, seen from the server."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    pair = (f"{local_port:04X}", f"{remote_port:04X}")
    return any((row[1][-4:], row[2][-4:]) == pair and row[3] == "01" for row in rows)


def websocket_frame(first_byte: int, payload: bytes) -> bytes:
    """Return a frame with a mask of zeros."""
    return bytes([first_byte, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


async def test_endless_websocket_message_is_refused(harness) -> None:
    """Empty fragments without end close the connection; a few fragments do not."""
    handshake = (
        b"GET /v1/jobs/endless:watch HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with connections(harness) as [(reader, writer)]:
        writer.write(handshake)
        assert await read_status(reader) == 101
        async with asyncio.timeout(SECONDS):
            await reader.readuntil(b"token-1")
        writer.write(websocket_frame(0x01, b"a") + websocket_frame(0, b"b") * 5 + websocket_frame(0x80, b"c"))
        writer.write(websocket_frame(0x89, b"ping"))
        async with asyncio.timeout(SECONDS):
            await reader.readuntil(b"\x8a\x04ping")
        writer.write(websocket_frame(0x01, b""))
        await asyncio.gather(write_endlessly(writer, websocket_frame(0, b"") * 100), wait_closed(reader))
    async with asyncio.timeout(SECONDS):
        await harness.jobs.cancelled.wait()


async def test_supervisor_tells_overload_from_a_hang() -> None:
    """A process that answers 503, or closes the connection, is alive; one that answers nothing is not."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for behave, alive in ((refuse, True), (close, True), (hang, False)):
        server = await asyncio.start_server(behave, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert await probes.is_alive(url, 0.5) is alive, behave.__name__
            assert not await probes.is_ready(url, "", 0.5)
    assert not await probes.is_alive(url, 0.5), "nothing listens"


async def test_gateway_process_with_few_descriptors_survives_a_flood(tmp_path) -> None:
    """Ten times as many silent connections as the process may have files: it serves meanwhile."""
    port = ports.find_free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "REELHAUL_AUTH": "none",
        "REELHAUL_DATA_DIR": str(tmp_path),
        "REELHAUL_SUITE_TOKEN": "the suite's own",
        "REELHAUL_GATEWAY_ADDRESS": f"127.0.0.1:{port}",
        **WITHOUT_METRICS,
    }
    # The lowest limit that leaves room for connections at all.
    command = f"ulimit -n 200 && exec {sys.executable} -P -m reelhaul_runtime serve gateway"
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(SECONDS):
            while not await probes.is_alive(url):  # noqa: ASYNC110 - another process has no Event
                await asyncio.sleep(0.1)
        with ExitStack() as idle:
            for _ in range(2000):
                idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert await probes.is_alive(url)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=SECONDS) as client:
                for _ in range(5):
                    assert (await client.get("/healthz")).status_code == 200
                    assert (await client.get("/v1:describeServer")).status_code == 200
        assert process.returncode is None
    finally:
        process.terminate()
        async with asyncio.timeout(SECONDS):
            await process.wait()
