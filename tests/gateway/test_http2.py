"""HTTP/2 at the port of HTTP/1.1: by TLS or with prior knowledge, with the same limits."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import hpack
import httpx
import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from tests.gateway.fake_services import CONTENT, GatewayHarness, running_gateway

from reelhaul_gateway import http2
from reelhaul_runtime import listeners
from reelhaul_runtime.up import probes

SECONDS = 20
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/v1/jobs/018f")]
POST = [(":method", "POST"), *GET[1:3], (":path", "/v1/jobs")]


@pytest.fixture
async def client(harness: GatewayHarness) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks HTTP/2 with prior knowledge."""
    async with httpx.AsyncClient(
        base_url=harness.url, http1=False, http2=True, timeout=SECONDS, trust_env=False
    ) as opened:
        yield opened


class Peer:
    """A client that sends what it likes: h2 on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self.events: list[events.Event] = []
        self.h2.initiate_connection()

    def send(self, data: bytes = b"") -> None:
        """Write the frames that h2 has, and *data*."""
        self._writer.write(self.h2.data_to_send() + data)

    async def drain(self) -> None:
        """Wait until the gateway takes what was sent. Raises ConnectionError if it closes the connection."""
        async with asyncio.timeout(SECONDS):
            await self._writer.drain()

    def request(self, *, headers: list[tuple[str, str]], end_stream: bool = True) -> int:
        """Send the head of a request; return its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers, end_stream=end_stream)
        self.send()
        return stream_id

    async def wait_for(self, is_wanted: Callable[[Any], bool]) -> Any:
        """Read until an event is wanted; return it."""
        async with asyncio.timeout(SECONDS):
            while True:
                for event in self.events:
                    if is_wanted(event):
                        self.events.remove(event)
                        return event
                data = await self._reader.read(1 << 16)
                assert data, f"the connection was closed after {self.events}"
                self.events += self.h2.receive_data(data)
                self.send()

    async def status_of(self, stream_id: int) -> int:
        """Return the status of a response."""
        response = await self.wait_for(
            lambda event: isinstance(event, events.ResponseReceived) and event.stream_id == stream_id
        )
        return int(dict(response.headers)[":status"])

    async def read_raw(self) -> bytes:
        """Return all bytes to the end of the connection."""
        async with asyncio.timeout(SECONDS):
            return await self._reader.read()

    async def end(self) -> None:
        """Send no more, and wait until the gateway has read all and closes the connection."""
        with suppress(ConnectionError):
            self._writer.write_eof()
            await self.read_raw()

    async def wait_closed(self) -> list[events.Event]:
        """Read to the end of the connection; return what arrived."""
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionError):
                while data := await self._reader.read(1 << 16):
                    self.events += self.h2.receive_data(data)
        return self.events


@asynccontextmanager
async def peer(harness: GatewayHarness, start: bytes = b"") -> AsyncIterator[Peer]:
    """Open a connection to the gateway, which begins with *start*."""
    client = socket.socket()
    # What the peer does not read fills the buffers soon.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, harness.address)
    reader, writer = await asyncio.open_connection(sock=client)
    opened = Peer(reader, writer)
    writer.write(start)
    opened.send()
    try:
        yield opened
    finally:
        writer.transport.abort()  # what the gateway does not read would keep it open


def is_goaway(code: ErrorCodes) -> Callable[[Any], bool]:
    """Return whether an event ends the connection with *code*."""
    return lambda event: isinstance(event, events.ConnectionTerminated) and event.error_code == code


def is_reset(stream_id: int) -> Callable[[Any], bool]:
    """Return whether an event resets the stream."""
    return lambda event: isinstance(event, events.StreamReset) and event.stream_id == stream_id


async def test_requests_and_responses(client: httpx.AsyncClient, harness: GatewayHarness):
    """Requests of all kinds are answered as over HTTP/1.1, with the same headers."""
    async with httpx.AsyncClient(base_url=harness.url, trust_env=False) as http1:
        for path in ("/v1/jobs/018f", "/v1/jobs?page_size=100", "/v1/jobs/missing", "/none", "/healthz"):
            response, reference = await client.get(path), await http1.get(path)
            assert response.http_version == "HTTP/2"
            assert response.status_code == reference.status_code
            assert response.content == reference.content
            assert {*response.headers} == {*reference.headers} - {"connection", "transfer-encoding"}
    assert (await client.head("/v1/jobs/018f")).content == b""
    assert (await client.options("/v1/jobs/018f")).status_code == 204
    headers = {"Idempotency-Key": "key", "Cookie": "a=b; c=d"}
    created = await client.post("/v1/jobs", json={"url": "x" * 2_000_000}, headers=headers)
    assert created.status_code == 200
    assert len(harness.jobs.create_requests[0].job.url) == 2_000_000
    assert harness.jobs.create_requests[0].request_id
    assert (await client.get("/v1/artifacts/video:download")).content == CONTENT


async def test_proxy_names_the_client():
    """A proxy that is trusted may say by the PROXY protocol for whom it connects; twin: it says nothing."""
    proxies = {"gateway_trusted_proxies": "127.0.0.1/32", "gateway_proxy_protocol": True}
    async with running_gateway(**proxies) as harness:
        for start in (b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n", b""):
            async with peer(harness, start) as client:
                headers = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost")]
                assert (
                    await client.status_of(client.request(headers=[*headers, (":path", "/v1/jobs/1")])) == 200
                )
        addresses = [metadata["x-forwarded-for"] for metadata in harness.jobs.metadata]
        assert addresses == ["192.0.2.7", "127.0.0.1"]


async def test_body_above_the_limit_is_refused(client: httpx.AsyncClient):
    """A response before the end of a large body arrives, and the connection serves on."""
    for _ in range(2):
        response = await client.post("/v1/jobs", content=b" " * (6 << 20))
        assert response.status_code == 413
        assert (await client.get("/v1/jobs/018f")).status_code == 200


async def test_streams_beside_each_other(client: httpx.AsyncClient):
    """One connection carries a watch and many other requests."""
    async with client.stream("GET", "/v1/jobs/endless:watch") as watch:
        assert json.loads(await anext(watch.aiter_lines()))["result"]["sequence"] == "1"
        responses = await asyncio.gather(*(client.get(f"/v1/jobs/{n}") for n in range(60)))
        assert [response.json()["name"] for response in responses] == [f"jobs/{n}" for n in range(60)]
    watched = await client.get("/v1/jobs/018f:watch", headers={"Accept": "text/event-stream"})
    assert watched.headers["content-type"].startswith("text/event-stream")
    assert watched.text.count("data: ") >= 2


async def test_reset_stream_is_cancelled(harness: GatewayHarness):
    """The call behind a stream that the client resets is cancelled; the connection serves on."""
    async with peer(harness) as opened:
        watch = opened.request(headers=[*GET[:3], (":path", "/v1/jobs/endless:watch")])
        assert await opened.status_of(watch) == 200
        opened.h2.reset_stream(watch, ErrorCodes.CANCEL)
        opened.send()
        async with asyncio.timeout(SECONDS):
            await harness.jobs.cancelled.wait()
        assert await opened.status_of(opened.request(headers=GET)) == 200


async def test_preface_in_pieces(harness: GatewayHarness):
    """The preface may arrive byte by byte; what only begins like it is HTTP/1.1."""
    reader, writer = await asyncio.open_connection(*harness.address)
    writer.write(b"P")
    await writer.drain()
    writer.write(b"RI / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
    writer.close()
    reader, writer = await asyncio.open_connection(*harness.address)
    opened = Peer(reader, writer)
    for byte in opened.h2.data_to_send():
        writer.write(bytes([byte]))
        await writer.drain()
    assert await opened.status_of(opened.request(headers=GET)) == 200
    writer.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([*GET, ("cookie", "x" * 30_000)], 200, id="long cookie"),
        pytest.param([*GET, ("cookie", "x" * 40_000)], 431, id="too long"),
        pytest.param([*GET, *[("x", "y")] * 90], 200, id="many"),
        pytest.param([*GET, *[("x", "y")] * 150], 431, id="too many"),
        pytest.param([*GET[:3], (":path", "/v1/jobs/%C3%BC?page_size=1")], 400, id="unknown parameter"),
        pytest.param([*GET[:3], (":path", "/v1/jobs/ü")], 400, id="path of other bytes"),
        pytest.param([*GET[:3], (":path", "/v1/jobs/1 2")], 400, id="path with a space"),
        pytest.param([*GET[:3], (":path", "http://localhost/v1/jobs/1")], 400, id="absolute URL"),
        pytest.param([(":method", "CONNECT"), (":authority", "localhost:1")], 400, id="CONNECT"),
        pytest.param([*GET[:2], (":authority", "evil.example"), GET[3]], 400, id="foreign host"),
    ],
)
async def test_heads(harness: GatewayHarness, headers: list[tuple[str, str]], status: int):
    """A wrong head is refused alone: the next request on the connection is served."""
    async with peer(harness) as opened:
        assert await opened.status_of(opened.request(headers=headers)) == status
        assert await opened.status_of(opened.request(headers=GET)) == 200


async def test_endless_head_is_refused(harness: GatewayHarness):
    """CONTINUATION frames without end (CVE-2024-27316) and a head of compressed megabytes end it."""
    async with peer(harness) as opened:
        opened.send(b"\0\0\x01\x01\0\0\0\0\x01\x88" + b"\0\0\x01\x09\0\0\0\0\x01\x88" * 1000)
        assert any(map(is_goaway(ErrorCodes.PROTOCOL_ERROR), await opened.wait_closed()))
    async with peer(harness) as opened:
        # A field of 4 KB in the table, named a thousand times.
        block = b"\x40\x01x\x7f\xe1\x1e" + b"y" * 4064 + b"\xbe" * 1000
        opened.send(len(block).to_bytes(3, "big") + b"\x01\x05\0\0\0\x01" + block)
        assert any(isinstance(event, events.ConnectionTerminated) for event in await opened.wait_closed())


async def test_rapid_resets_close_the_connection(harness: GatewayHarness):
    """A client that opens and resets streams for ever is sent away (CVE-2023-44487)."""
    async with peer(harness) as opened:
        for _ in range(50):
            stream_id = opened.request(headers=GET)
            opened.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        assert await opened.status_of(opened.request(headers=GET)) == 200
        for _ in range(200):
            stream_id = opened.request(headers=GET)
            opened.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        opened.send()
        assert any(map(is_goaway(ErrorCodes.ENHANCE_YOUR_CALM), await opened.wait_closed()))


async def test_streams_are_bounded(harness: GatewayHarness):
    """A connection has at most 100 streams at a time; a client that opens more is disconnected."""
    async with peer(harness) as opened:
        await opened.wait_for(lambda event: isinstance(event, events.RemoteSettingsChanged))
        assert opened.h2.remote_settings.max_concurrent_streams == 100
        slow = [*GET[:3], (":path", "/v1/jobs/slow")]
        for _ in range(100):
            opened.request(headers=slow)
        opened.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
        opened.h2.remote_settings.acknowledge()
        opened.request(headers=slow)
        assert any(isinstance(event, events.ConnectionTerminated) for event in await opened.wait_closed())


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\0\0\x08\x06\0\0\0\0\0" + b"12345678", id="PING"),
        pytest.param(b"\0\0\0\x04\0\0\0\0\0", id="SETTINGS"),
    ],
)
async def test_floods_of_control_frames_end(harness: GatewayHarness, frame: bytes):
    """Some control frames are welcome; a client that sends them without end is disconnected."""
    async with peer(harness) as opened:
        opened.send(frame * 1000)
        assert await opened.status_of(opened.request(headers=GET)) == 200
        with suppress(ConnectionError):
            for _ in range((2 << 20) // len(frame) // 4096):
                opened.send(frame * 4096)
                await opened.drain()
        await opened.wait_closed()


@pytest.mark.parametrize(("per_second", "survives"), [(1 << 30, True), (0, False)])
async def test_allowance_for_control_frames_grows_with_time(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, per_second: int, survives: bool
):
    """A connection that is only kept alive by pings may live for ever, if they are few per second."""
    monkeypatch.setattr(http2, "_FREE_BYTES", 1000)
    monkeypatch.setattr(http2, "_FREE_BYTES_PER_SECOND", per_second)
    async with peer(harness) as opened:
        assert await opened.status_of(opened.request(headers=GET)) == 200
        opened.send((b"\0\0\x08\x06\0\0\0\0\0" + b"12345678") * 3000)
        if survives:
            assert await opened.status_of(opened.request(headers=GET)) == 200
        else:
            await opened.wait_closed()


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_refusals_say_why(harness: GatewayHarness, method: str, has_body: bool):
    """As over HTTP/1.1, a refused head is answered with a google.rpc.Status that has a reason."""
    async with httpx.AsyncClient(base_url=harness.url, http1=False, http2=True, trust_env=False) as client:
        response = await client.request(method, "/v1/jobs/1", headers={"cookie": "x" * 40_000})
        assert response.status_code == 431
        if has_body:
            assert response.json()["details"][0]["reason"] == "FIELD_INVALID"
        else:
            assert not response.content
        assert (await client.get("/v1/jobs/1")).status_code == 200


async def test_slow_bodies_are_refused():
    """A body that does not come ends with 408 after the grace period; other streams go on."""
    async with running_gateway(gateway_body_seconds=1) as harness, peer(harness) as opened:
        silent = opened.request(headers=[*POST, ("content-length", "10")], end_stream=False)
        assert await opened.status_of(silent) == 408
        await opened.wait_for(is_reset(silent))
        assert await opened.status_of(opened.request(headers=GET)) == 200
    assert not harness.jobs.create_requests


async def test_bodies_of_all_requests_are_bounded_together():
    """Unfinished bodies beyond the total are refused with 503, and what they held is free again."""
    async with (
        running_gateway(gateway_max_request_bytes=1 << 20, gateway_max_total_body_bytes=1 << 20) as harness,
        httpx.AsyncClient(base_url=harness.url, http1=False, http2=True, trust_env=False) as client,
    ):
        for _ in range(3):
            async with peer(harness) as opened:
                await opened.wait_for(lambda event: isinstance(event, events.RemoteSettingsChanged))
                await opened.wait_for(lambda event: isinstance(event, events.WindowUpdated))
                for _ in range(8):
                    stream_id = opened.request(headers=POST, end_stream=False)
                    for _ in range(10):
                        opened.h2.send_data(stream_id, b" " * 16_000)
                    opened.send()
                    await opened.wait_for(lambda event: isinstance(event, events.WindowUpdated))
                refused = await opened.wait_for(lambda event: isinstance(event, events.ResponseReceived))
                assert dict(refused.headers)[":status"] == "503"
            async with asyncio.timeout(SECONDS):
                while (await client.post("/v1/jobs", json={"url": "x" * 900_000})).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_client_that_gives_no_window_is_reset(harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch):
    """A client that never takes its download loses that stream; its other requests are answered."""
    monkeypatch.setattr(listeners, "SEND_TIMEOUT_SECONDS", 1)
    async with peer(harness) as opened:
        opened.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        opened.send()
        await opened.wait_for(lambda event: isinstance(event, events.SettingsAcknowledged))
        stuck = opened.request(headers=[*GET[:3], (":path", "/v1/artifacts/video:download")])
        assert await opened.status_of(stuck) == 200
        assert await opened.status_of(opened.request(headers=GET)) == 200
        await opened.wait_for(is_reset(stuck))
        assert await opened.status_of(opened.request(headers=GET)) == 200


async def test_window_of_the_connection_does_not_keep_a_stream(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
):
    """A stream without a window is reset, although the client goes on to enlarge that of the connection."""
    monkeypatch.setattr(listeners, "SEND_TIMEOUT_SECONDS", 0.5)
    async with peer(harness) as opened:

        async def enlarge_window() -> None:
            while True:
                opened.h2.increment_flow_control_window(1)
                opened.send()
                await asyncio.sleep(0.05)

        opened.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stuck = opened.request(headers=GET)
        assert await opened.status_of(stuck) == 200
        enlarging = asyncio.create_task(enlarge_window())
        try:
            await opened.wait_for(is_reset(stuck))
        finally:
            enlarging.cancel()


@pytest.mark.parametrize("end", ["reset", "goaway"])
async def test_refused_request_that_ends_in_the_same_data(harness: GatewayHarness, end: str):
    """A client that resets a stream, or leaves, together with a request that is refused causes no failure."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with peer(harness) as opened:
        await opened.wait_for(lambda event: isinstance(event, events.RemoteSettingsChanged))
        refused = opened.h2.get_next_available_stream_id()
        opened.h2.send_headers(refused, [*GET[:3], (":path", "/a b")], end_stream=True)
        if end == "reset":
            opened.h2.reset_stream(refused, ErrorCodes.CANCEL)
            opened.send()
            assert await opened.status_of(opened.request(headers=GET)) == 200
        else:
            opened.h2.close_connection()
            opened.send()
            await opened.wait_closed()
    assert not failures


async def test_connections_count_as_those_of_http1():
    """Idle HTTP/2 connections give way, busy ones do not, and those beyond the limit get 503."""
    async with running_gateway(gateway_max_connections=2, gateway_head_seconds=1) as harness:
        watch = [*GET[:3], (":path", "/v1/jobs/endless:watch")]
        async with peer(harness) as busy, peer(harness) as idle:
            assert await busy.status_of(busy.request(headers=watch)) == 200
            assert await idle.status_of(idle.request(headers=GET)) == 200
            async with peer(harness) as third:
                assert await third.status_of(third.request(headers=watch)) == 200
                await idle.wait_closed()
                async with peer(harness) as fourth:
                    assert await fourth.status_of(fourth.request(headers=GET)) == 503
                    assert await probes.is_ready(harness.url, "")
        async with peer(harness) as silent:
            assert any(map(is_goaway(ErrorCodes.NO_ERROR), await silent.wait_closed()))


def random_frame(rng: random.Random) -> bytes:
    """Return a frame of any type: sometimes a request, sometimes nonsense."""
    kind = rng.choice([*range(10), 1, 1, rng.randrange(256)])
    flags = rng.choice([0, 1, 4, 5, rng.randrange(256)])
    stream_id = rng.choice([0, 1, 3, 5, 7, 2, rng.randrange(1 << 31)])
    body = rng.randbytes(rng.choice([0, 1, 4, 5, 8, 100]))
    if kind in (1, 9) and rng.random() < 0.7:
        path = rng.choice(["/v1/jobs/1", "/v1/jobs", "*", "", "/v1/jobs/endless:watch", "/v1/jobs/slow"])
        method, length = rng.choice(["GET", "POST", "HEAD"]), ("content-length", "5")
        head = [(":method", method), *GET[1:3], (":path", path), length]
        body, flags = hpack.Encoder().encode(head[: rng.choice([4, 4, 5, 3])]), flags & ~0x28
    size = rng.choice([len(body)] * 20 + [rng.randrange(1 << 24)])
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + body


async def test_random_frames_harm_nobody(harness: GatewayHarness):
    """Nonsense ends its own connection at most, causes no failure of ours, and leaves no task behind."""
    loop, failures = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    tasks_before = len(asyncio.all_tasks())
    for seed in range(300):
        rng = random.Random(seed)
        async with peer(harness) as opened:
            opened.send(b"".join(random_frame(rng) for _ in range(rng.randrange(1, 30))))
            await opened.end()
    async with peer(harness) as opened:
        assert await opened.status_of(opened.request(headers=GET)) == 200
    async with asyncio.timeout(SECONDS):
        while len(asyncio.all_tasks()) > tasks_before:  # noqa: ASYNC110 - of the gateway
            await asyncio.sleep(0.01)
    assert not failures
