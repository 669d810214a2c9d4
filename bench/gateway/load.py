"""Client process: connections that send one request after the other, and a summary as JSON.

A general HTTP client costs more CPU than the servers that are measured. This one expects status 200, a
Content-Length and a fixed number of bytes; any other response is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from bench.report import percentile

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Load:
    """The requests of all connections: *requests* in turns, until *end* of time.perf_counter."""

    def __init__(self, requests: Iterator[bytes], size: int, end: float) -> None:
        self._requests, self._end = requests, end
        #: Bytes of each body; 0: any number.
        self.size = size
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.bytes = 0

    def next_request(self) -> bytes | None:
        """Return the next request; None if there are no more."""
        return next(self._requests, None) if time.perf_counter() < self._end else None


class LoadConnection(asyncio.Protocol):
    """A connection that sends the next request when it has the response to the last."""

    def __init__(self, load: Load) -> None:
        self._load, self._buffer, self._missing = load, b"", 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """End; it is an error if the server closed the connection."""
        if not self._transport.is_closing() or error:
            self._load.errors.append(f"the server closed the connection: {error}")
        self.closed.set_result(None)

    def eof_received(self) -> None:
        """Record that the server has closed the connection."""
        self._load.errors.append("the server closed the connection")

    def data_received(self, content: bytes) -> None:
        """Take the head of a response, or more of its body."""
        if self._missing:
            self._missing -= len(content)
        else:
            self._buffer += content
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            self._missing = self._check_head(self._buffer[: end + 2]) - (len(self._buffer) - end - 4)
            self._buffer = b""
        if self._missing == 0:
            self._load.latencies.append(time.perf_counter() - self._begin)
            self._send()
        elif self._missing < 0:
            self._load.errors.append("more bytes than Content-Length")
            self._transport.close()

    def _check_head(self, head: bytes) -> int:
        """Return the length of the body."""
        match = _LENGTH.search(head)
        length = int(match[1]) if match else 0
        self._load.bytes += length
        if not head.startswith(b"HTTP/1.1 200 ") or length != (self._load.size or length):
            self._load.errors.append(f"{length} bytes instead of {self._load.size}: {head!r}")
        return length

    def _send(self) -> None:
        request = self._load.next_request()
        if request is None:
            self._transport.close()
            return
        self._begin = time.perf_counter()
        self._transport.write(request)


async def main() -> None:
    """Send requests for some seconds and print the numbers of responses and errors, p50 and p99."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.load")
    parser.add_argument("port", type=int, help="loopback port of the server")
    parser.add_argument("requests", type=Path, help="JSON: [the text of a request, …], sent in turns")
    parser.add_argument("size", type=int, help="bytes of each response's body; 0: not checked")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float, help="0: send each request once")
    arguments = parser.parse_args()
    requests = [request.encode() for request in json.loads(arguments.requests.read_text())]
    begin = time.perf_counter()
    load = (
        Load(itertools.cycle(requests), arguments.size, begin + arguments.seconds)
        if arguments.seconds
        else Load(iter(requests), arguments.size, math.inf)
    )
    connections = [
        await asyncio.get_running_loop().create_connection(
            lambda: LoadConnection(load), "127.0.0.1", arguments.port
        )
        for _ in range(arguments.connections)
    ]
    async with asyncio.timeout(arguments.seconds + 30):
        await asyncio.gather(*(connection.closed for _, connection in connections))
    seconds = time.perf_counter() - begin
    summary = {
        "responses": len(load.latencies),
        "bytes": load.bytes,
        "errors": load.errors[:3],
        "rate": len(load.latencies) / seconds,
        "p50": percentile(load.latencies, 0.5) * 1000,
        "p99": percentile(load.latencies, 0.99) * 1000,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    uvloop.run(main())
