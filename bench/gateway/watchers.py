"""Client process: NDJSON watchers. Prints a line when all are open, and then a summary as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from pathlib import Path
from typing import cast

import uvloop

from bench.report import percentile

# The upstream puts the time of sending, in µs since the epoch, into downloadedBytes.
_EVENT = re.compile(rb'"sequence":"(\d+)".*?"downloadedBytes":"(\d+)"')


class Watchers:
    """What all watchers have received."""

    def __init__(self, request: bytes, number: int) -> None:
        self.request = request
        self._missing = number
        self.all_open = asyncio.Event()
        #: Arrival time and latency of each event, in seconds.
        self.latencies: list[tuple[float, float]] = []
        self.errors: list[str] = []

    def count_open(self) -> None:
        """Count a watcher that has received its first event."""
        self._missing -= 1
        if self._missing == 0:
            self.all_open.set()


class Watcher(asyncio.Protocol):
    """A connection with one stream of events, whose sequence numbers count up from 1."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers, self._buffer, self._sequence = watchers, b"", 0
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(self._watchers.request)

    def connection_lost(self, error: Exception | None) -> None:
        """It is an error if the server ends the stream."""
        if not self.ended:
            self._watchers.errors.append(f"the stream ended: {error}; {self._buffer!r}")
            self._watchers.all_open.set()

    def data_received(self, content: bytes) -> None:
        """Take all complete lines; chunk heads are lines too."""
        now = time.time()
        *lines, self._buffer = (self._buffer + content).split(b"\n")
        for line in lines:
            if match := _EVENT.search(line):
                self._take(int(match[1]), now, int(match[2]) / 1e6)
            elif line.startswith(b"HTTP/1.1 ") and not line.startswith(b"HTTP/1.1 200 "):
                self._watchers.errors.append(repr(line))

    def close(self) -> None:
        """End the stream."""
        self.ended = True
        self._transport.close()

    def _take(self, sequence: int, now: float, sent: float) -> None:
        self._sequence += 1
        if sequence != self._sequence:
            self._watchers.errors.append(f"event {sequence} instead of {self._sequence}")
        self._watchers.latencies.append((now, now - sent))
        if sequence == 1:
            self._watchers.count_open()


async def main() -> None:
    """Watch, and print the number of events, p50 and p99 of the period after all watchers were open."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.watchers")
    parser.add_argument("port", type=int, help="loopback port of the server")
    parser.add_argument("requests", type=Path, help="JSON: [the text of the request]")
    parser.add_argument("number", type=int, help="number of watchers")
    parser.add_argument("seconds", type=float)
    arguments = parser.parse_args()
    (request,) = json.loads(arguments.requests.read_text())
    watchers = Watchers(request.encode(), arguments.number)
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: Watcher(watchers), "127.0.0.1", arguments.port))[1]
        for _ in range(arguments.number)
    ]
    async with asyncio.timeout(30):
        await watchers.all_open.wait()
    print("open", flush=True)
    begin = time.time()
    await asyncio.sleep(arguments.seconds)
    latencies = [latency * 1000 for arrival, latency in watchers.latencies if arrival >= begin]
    summary = {
        "events": len(latencies),
        "errors": watchers.errors[:3],
        "rate": len(latencies) / (time.time() - begin),
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
    }
    print(json.dumps(summary), flush=True)
    for watcher in opened:
        watcher.close()


if __name__ == "__main__":
    uvloop.run(main())
