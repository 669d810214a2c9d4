"""Watcher process: thousands of streams of one kind, resumed where they end.

Run as ``python -m tests.load.watchers KIND OPTIONS``. Each line of standard input is a JSON array:
``["watch", job]`` starts a watcher, ``["phase", name]`` names the phase of the events that follow. A line of
standard output is written when a watcher has its first message (``["open", job]``) and when it ends:
``["end", job, state]``, or ``["failed", job, error]``. At the end of the input the remaining watchers are
cancelled, and the last line is the summary.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import uvloop
import websockets
from tests.load.balancer import Balancer, running_balancer

from reelhaul.backoff import Backoff
from reelhaul.client import AsyncClient
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul_runtime.rpc.channels import to_target

KINDS = ("grpc", "sse", "websocket")
# As several programs do; one connection with all streams would not be typical.
_CLIENTS = 16
# A stream that is silent for so long is dead: three heartbeats of five seconds.
_SILENCE_SECONDS = 15.0
_RESUME_SECONDS = 120.0
_UNAVAILABLE = 14


class StreamEnded(Exception):
    """The stream ended before the terminal snapshot; it may be resumed."""


class Observer:
    """What the watchers of this process have received."""

    def __init__(self) -> None:
        self.phase = ""
        #: Ages of events at the watcher in seconds, by phase.
        self.ages: dict[str, list[float]] = defaultdict(list)
        self.resumes: Counter[str] = Counter()
        self.bytes = 0

    def take(self, event_seconds: float) -> None:
        """Record an event that happened at *event_seconds* since the epoch."""
        self.ages[self.phase].append(time.time() - event_seconds)

    def count_resume(self) -> None:
        """Count a stream that is resumed."""
        self.resumes[self.phase] += 1

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {"ages": self.ages, "resumes": self.resumes}


#: Watches a job to its end and returns the name of its last state; calls the function at the first message.
Watch = Callable[[str, Callable[[], None]], Awaitable[str]]


class GrpcWatchers:
    """Watchers of the client library, on several channels."""

    def __init__(self, clients: Sequence[AsyncClient], observer: Observer) -> None:
        self._clients, self._observer, self._next = clients, observer, 0

    async def watch(self, job: str, opened: Callable[[], None]) -> str:
        """Watch *job* to its end; return the name of its state."""
        self._next += 1
        state = ""
        async for event in self._clients[self._next % len(self._clients)].watch(job):
            if event.kind == "reconnecting":
                continue
            opened()
            if event.job is not None:
                state = Download.Status.Name(event.job.status)
            else:
                self._observer.take(event.message.event_time.ToMicroseconds() / 1e6)
        return state


class _Stream(Protocol):
    """Yields the messages of one connection, as the gateway's JSON; raises StreamEnded or OSError."""

    def __call__(self, path: str, token: str) -> AsyncIterator[dict[str, Any]]: ...


class HttpWatchers:
    """Watchers of the gateways, which resume at another one."""

    def __init__(self, stream: _Stream, observer: Observer) -> None:
        self._stream, self._observer = stream, observer

    async def watch(self, job: str, opened: Callable[[], None]) -> str:
        """Watch *job* to its end; return the name of its state. Raises StreamEnded after two minutes."""
        token, sequence, backoff = "", 0, Backoff(jitter=0.5)
        last_message = time.monotonic()
        while True:
            try:
                async for message in self._stream(f"/v1/{job}:watch", token):
                    opened()
                    last_message = time.monotonic()
                    backoff.reset()
                    token = message["resumeToken"]
                    if "heartbeat" in message:
                        continue
                    snapshot = message.get("snapshot", {})
                    number = int(message["sequence"])
                    assert number > sequence or snapshot.get("reset"), f"sequence {number} came twice"
                    sequence = number
                    if snapshot.get("terminal"):
                        return str(snapshot["job"]["state"])
                    if not snapshot:
                        self._observer.take(_parse_time(message["eventTime"]))
                reason: Exception = StreamEnded("the stream ended too early")
            except (StreamEnded, OSError, EOFError, TimeoutError, websockets.WebSocketException) as error:
                reason = error
            if time.monotonic() - last_message > _RESUME_SECONDS:
                raise StreamEnded(f"not resumed: {reason!r}") from reason
            self._observer.count_resume()
            await asyncio.sleep(backoff.next_delay())


class SseStream:
    """Server-Sent Events over HTTP/1.1, each stream on its own connection, as browsers have it."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        self._balancer, self._key = balancer, key

    async def __call__(self, path: str, token: str) -> AsyncIterator[dict[str, Any]]:
        address = self._balancer.select()
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        try:
            resume = f"Last-Event-ID: {token}\r\n" if token else ""
            writer.write(
                f"GET {path}?heartbeat_interval=5s HTTP/1.1\r\nHost: {address}\r\n"
                f"Authorization: Bearer {self._key}\r\nAccept: text/event-stream\r\n{resume}\r\n".encode()
            )
            status = await reader.readline()
            if b" 200 " not in status:
                raise _unexpected(status)
            kind = ""
            # Sizes of chunks are lines of their own, which are no fields of an event.
            while line := await asyncio.wait_for(reader.readline(), _SILENCE_SECONDS):
                if line.startswith(b"event:"):
                    kind = line[6:].decode().strip()
                elif line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if kind == "stream_error":
                        raise _stream_error(message)
                    yield message
        finally:
            writer.close()


class WebSocketStream:
    """WebSockets."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        self._balancer, self._key = balancer, key

    async def __call__(self, path: str, token: str) -> AsyncIterator[dict[str, Any]]:
        url = f"ws://{self._balancer.select()}{path}?heartbeat_interval=5s"
        headers = {"Authorization": f"Bearer {self._key}"}
        if token:
            headers["Last-Event-ID"] = token
        async with websockets.connect(
            url, proxy=None, additional_headers=headers, compression=None, ping_interval=None, open_timeout=30
        ) as connection:
            while True:
                try:
                    frame = await asyncio.wait_for(connection.recv(), _SILENCE_SECONDS)
                except websockets.ConnectionClosedOK:
                    return
                message = json.loads(frame)
                if "error" in message:
                    raise _stream_error(message)
                yield message


def _stream_error(message: dict[str, Any]) -> Exception:
    """Return StreamEnded if the failure in *message* may be resumed."""
    status = message.get("error", message)
    return (StreamEnded if status.get("code") == _UNAVAILABLE else ValueError)(str(status))


def _unexpected(status: bytes) -> Exception:
    return (StreamEnded if b" 503 " in status or not status else ValueError)(f"status {status!r}")


def _parse_time(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _write(*line: object) -> None:
    print(json.dumps(line), flush=True)


async def _run_watcher(watch: Watch, job: str) -> None:
    is_open = False

    def opened() -> None:
        nonlocal is_open
        if not is_open:
            is_open = True
            _write("open", job)

    try:
        _write("end", job, await watch(job, opened))
    except Exception as error:
        _write("failed", job, repr(error))


async def _run(kind: str, jobs: Sequence[str], gateways: Sequence[str], key: str) -> None:
    observer, tasks = Observer(), set[asyncio.Task[None]]()
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(running_balancer(gateways))
        watch: Watch
        if kind == "grpc":
            orders = [
                to_target(",".join([*jobs[n % len(jobs) :], *jobs[: n % len(jobs)]])) for n in range(_CLIENTS)
            ]
            clients = [await stack.enter_async_context(AsyncClient(each, api_key=key)) for each in orders]
            watch = GrpcWatchers(clients, observer).watch
        else:
            stream: _Stream = (SseStream if kind == "sse" else WebSocketStream)(balancer, key)
            watch = HttpWatchers(stream, observer).watch
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            command, value = json.loads(line)
            if command == "phase":
                observer.phase = value
                continue
            task = asyncio.create_task(_run_watcher(watch, value))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in list(tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    _write("summary", observer.summary())


def main() -> None:
    """Watch until the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.watchers")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--jobs", nargs="+", required=True, help="addresses of the replicas of jobs")
    parser.add_argument("--gateways", nargs="+", required=True, help="addresses of the gateways")
    arguments = parser.parse_args()
    key = os.environ.pop("REELHAUL_API_KEY")
    uvloop.run(_run(arguments.kind, arguments.jobs, arguments.gateways, key))


if __name__ == "__main__":
    main()
