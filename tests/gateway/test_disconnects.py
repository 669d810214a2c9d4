"""Clients that disconnect at any moment leave no upstream call, task or descriptor behind."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from tests.gateway.fake_services import GatewayHarness

SECONDS = 30
CLIENTS = 1000
_AT_A_TIME = 50

_WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
_BODY = b'{"job":{"url":"https://media.example/watch?v=1"},"padding":"' + b"x" * 200_000 + b'"}'


def _get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


class Client:
    """A client with a number, whose moments and ways are drawn by its own generator."""

    def __init__(self, harness: GatewayHarness, number: int) -> None:
        self._harness, self._number = harness, number
        self._random = random.Random(number)

    async def run(self) -> None:
        """Send a request or a part of it, read a part of the response, and disconnect."""
        scenario = (
            self._leave_in_the_head,
            self._leave_in_the_body,
            self._leave_while_waiting,
            self._leave_at_once,
            self._leave_in_the_stream,
            self._leave_in_the_stream,
            self._leave_while_it_reads_slowly,
            self._leave_websocket,
        )[self._number % 8]
        self._socket = socket.socket()
        self._socket.setblocking(False)
        try:
            async with asyncio.timeout(SECONDS):
                await self._loop.sock_connect(self._socket, self._harness.address)
                await scenario()
                await self._disconnect()
        finally:
            self._socket.close()

    async def _leave_in_the_head(self) -> None:
        head = _get(f"/v1/jobs/slow-{self._number}")
        await self._send(head[: self._random.randrange(len(head))])

    async def _leave_in_the_body(self) -> None:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode()
        await self._send(head + _BODY[: self._random.randrange(len(_BODY))])

    async def _leave_at_once(self) -> None:
        paths = [f"slow-{self._number}", f"endless-{self._number}:watch", "018f", "018f:watch"]
        path = self._random.choice(paths)
        await self._send(_get(f"/v1/jobs/{path}"))

    async def _leave_while_waiting(self) -> None:
        await self._send(_get(f"/v1/jobs/slow-{self._number}"))
        await self._until_upstream_waits("slow")

    async def _leave_in_the_stream(self) -> None:
        accept = self._random.choice(["*/*", "text/event-stream", "application/json"])
        await self._send(_get(f"/v1/jobs/endless-{self._number}:watch", f"Accept: {accept}\r\n"))
        await self._read_some(400)

    async def _leave_while_it_reads_slowly(self) -> None:
        accept = self._random.choice(["*/*", "text/event-stream"])
        await self._send(_get(f"/v1/jobs/flood-{self._number}:watch", f"Accept: {accept}\r\n"))
        await self._read_some(100_000)
        await self._until_upstream_waits("flood")

    async def _leave_websocket(self) -> None:
        job = self._random.choice(["endless", "flood"])
        request = _get(f"/v1/jobs/{job}-{self._number}:watch", _WEBSOCKET)
        if self._random.random() < 0.2:
            await self._send(request[: self._random.randrange(len(request))])
            return
        await self._send(request)
        await self._read_some(250)

    async def _until_upstream_waits(self, job: str) -> None:
        await eventually(lambda: f"jobs/{job}-{self._number}" in self._harness.jobs.waiting)

    async def _send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def _read_some(self, at_most: int) -> None:
        missing = self._random.randrange(1, at_most)
        while missing > 0 and (data := await self._loop.sock_recv(self._socket, missing)):
            missing -= len(data)

    async def _disconnect(self) -> None:
        """Reset the connection, close it, or only end what is sent and wait for the end of the response."""
        way = self._random.choice(["reset", "close", "end"])
        if way == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "end":
            self._socket.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while await self._loop.sock_recv(self._socket, 1 << 16):
                    pass

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until *condition* is true."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - tasks and descriptors have no event
            await asyncio.sleep(0.005)


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def test_thousand_clients_that_disconnect_leave_nothing_behind(client, harness) -> None:
    """No call at the upstream, no task and no descriptor; the next client is served."""
    for number in range(16):
        await Client(harness, number).run()
    assert (await client.get("/v1/jobs/018f")).status_code == 200
    await eventually(lambda: not harness.jobs.waiting)
    tasks, open_before = len(asyncio.all_tasks()), descriptors()
    for first in range(0, CLIENTS, _AT_A_TIME):
        await asyncio.gather(*(Client(harness, n).run() for n in range(first, first + _AT_A_TIME)))
    await eventually(lambda: not harness.jobs.waiting)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: descriptors() <= open_before)
    assert harness.jobs.flooded
    assert (await client.get("/v1/jobs/018f")).status_code == 200
