"""The end of a gateway: balancers notice, requests that run are answered, and connections are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from h2 import events
from tests.gateway.fake_services import GatewayHarness, running_gateway
from tests.gateway.test_disconnects import eventually
from tests.gateway.test_http2 import GET, POST, SECONDS, peer
from tests.gateway.test_slow_readers import wait_until_upstream_waits

from reelhaul_gateway.settings import Settings

BODY = b'{"url": "https://media.example/1"}'
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# A close frame with the code 1000 and a mask of zeros, RFC 6455 section 5.2.
CLOSE_FRAME = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


@asynccontextmanager
async def stopping(harness: GatewayHarness) -> AsyncIterator[None]:
    """Stop the gateway while the block runs, and wait for its end."""
    stop = asyncio.create_task(harness.stacks["gateway"].aclose())
    try:
        yield
    finally:
        async with asyncio.timeout(SECONDS):
            await stop


async def wait_until_refused(harness: GatewayHarness) -> None:
    """Wait until the gateway accepts no connections."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(*harness.address)
            except ConnectionRefusedError:
                return
            except ConnectionError:
                continue  # the listener was closed meanwhile
            writer.close()
            await asyncio.sleep(0.01)


async def test_readiness_ends_before_service():
    """While /readyz fails, requests are served, on new connections too; then none are accepted."""
    async with (
        running_gateway(gateway_unready_seconds=3, drain_seconds=5) as harness,
        httpx.AsyncClient(base_url=harness.url, trust_env=False, timeout=SECONDS) as client,
        httpx.AsyncClient(base_url=harness.url, trust_env=False, timeout=SECONDS) as other,
    ):
        async with asyncio.timeout(SECONDS):
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - of another server
                await asyncio.sleep(0.01)
        async with stopping(harness):
            await asyncio.sleep(0)
            assert (await other.get("/readyz")).status_code == 503
            assert (await other.get("/v1/jobs/018f")).status_code == 200
            assert (await client.get("/healthz")).status_code == 200
            await wait_until_refused(harness)


async def test_streams_end_one_after_the_other():
    """While a gateway is unready, its streams end evenly, so that clients do not all reconnect at once."""
    async with running_gateway(gateway_unready_seconds=4, drain_seconds=5) as harness:
        ends = list[float]()

        async def watch(number: int, opened: asyncio.Event) -> None:
            reader, writer = await asyncio.open_connection(*harness.address)
            writer.write(b"GET /v1/jobs/endless-%d:watch HTTP/1.1\r\nHost: localhost\r\n" % number)
            writer.write(b"Accept: text/event-stream\r\n\r\n")
            await reader.readuntil(b"data:")
            opened.set()
            assert b"stream_error" in await reader.readuntil(b"stream_error")
            ends.append(asyncio.get_running_loop().time())
            writer.close()

        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            events_of_opening = [asyncio.Event() for _ in range(5)]
            for number, opened in enumerate(events_of_opening):
                group.create_task(watch(number, opened))
            for opened in events_of_opening:
                await opened.wait()
            async with stopping(harness):
                pass
        # Two seconds for five streams.
        assert ends[-1] - ends[0] >= 1.5


async def test_request_that_runs_is_answered():
    """A request whose body still arrives is answered, and the client learns that its connection closes."""
    async with running_gateway(drain_seconds=10) as harness:
        reader, writer = await asyncio.open_connection(*harness.address)
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        writer.write(head + BODY[:5])
        idle_reader, idle_writer = await asyncio.open_connection(*harness.address)
        idle_writer.write(b"GET /v1/jobs/018f HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(SECONDS):
            await idle_reader.readuntil(b'"}')
            async with stopping(harness):
                await idle_reader.read()
                writer.write(BODY[5:])
                response = await reader.read()
        assert response.startswith(b"HTTP/1.1 200")
        assert b"connection: close\r\n" in response
        writer.close()
        idle_writer.close()


async def test_client_closes_its_websocket_meanwhile():
    """A client that closes its WebSocket, and reads no answer, does not end the requests that run."""
    async with running_gateway(drain_seconds=5) as harness:
        _, slow = await asyncio.open_connection(*harness.address, limit=1024)
        slow.write(b"GET /v1/jobs/flood-1:watch HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE)
        reader, writer = await asyncio.open_connection(*harness.address)
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        writer.write(head + BODY[:5])
        async with asyncio.timeout(SECONDS):
            await wait_until_upstream_waits(harness)
            slow.write(CLOSE_FRAME)
            await eventually(lambda: "jobs/flood-1" not in harness.jobs.waiting)
            async with stopping(harness):
                writer.write(BODY[5:])
                response = await reader.read()
        assert response.startswith(b"HTTP/1.1 200")
        writer.close()
        slow.transport.abort()


async def test_http2_stream_that_runs_is_answered():
    """HTTP/2 clients get GOAWAY with the last stream that is served; idle connections are closed."""
    async with running_gateway(drain_seconds=10) as harness, peer(harness) as busy, peer(harness) as idle:
        assert await idle.status_of(idle.request(headers=GET)) == 200
        stream_id = busy.request(headers=POST, end_stream=False)
        busy.h2.send_data(stream_id, BODY, end_stream=True)
        rest = busy.h2.data_to_send()
        busy.h2.ping(b"received")
        busy.send()
        await busy.wait_for(lambda event: isinstance(event, events.PingAckReceived))
        async with stopping(harness):
            goaway = await busy.wait_for(lambda event: isinstance(event, events.ConnectionTerminated))
            assert (goaway.error_code, goaway.last_stream_id) == (0, stream_id)
            assert any(isinstance(event, events.ConnectionTerminated) for event in await idle.wait_closed())
            # h2 takes nothing more after GOAWAY.
            busy.send(rest)
            assert b"jobs/new" in await busy.read_raw()


def test_unready_seconds_are_part_of_the_drain():
    """The time in which /readyz fails cannot exceed the time of the whole drain."""
    Settings(gateway_unready_seconds=5, drain_seconds=5)
    with pytest.raises(ValueError, match="REELHAUL_GATEWAY_UNREADY_SECONDS must be at most"):
        Settings(gateway_unready_seconds=6, drain_seconds=5)
