"""Streams: server streams as NDJSON, as Server-Sent Events, or as the bytes of HttpBody.

A failure after the first message is always visible: as the last line, as an event, or as a
connection that breaks off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import orjson
from google.rpc import status_pb2

from reelhaul_transcoding.binding.binding import Binding
from reelhaul_transcoding.http.asgi import Header, Send
from reelhaul_transcoding.http.status import StatusWriter

_NDJSON, _EVENTS = b"application/x-ndjson", b"text/event-stream"


class Framing(Protocol):
    """How messages of a stream are told over HTTP."""

    content_type: bytes

    def message(self, message: bytes) -> bytes:
        """One message."""

    def failure(self, status: status_pb2.Status) -> bytes | None:
        """The end, where it is a failure; None where only a broken connection can tell it."""

    #: Bytes that say nothing but that the stream lives; empty where there are none.
    ping: bytes


class NdjsonFraming:
    """NDJSON: ``{"result": …}`` a line, and at last ``{"error": …}`` where it failed."""

    content_type = _NDJSON
    #: A line without content: what splits by lines may well skip it, what parses one by one must.
    ping = b""

    def __init__(self, binding: Binding, statuses: StatusWriter) -> None:
        self._binding, self._statuses = binding, statuses

    def message(self, message: bytes) -> bytes:
        """See Framing.message."""
        return b'{"result":' + self._binding.event(message)[1] + b"}\n"

    def failure(self, status: status_pb2.Status) -> bytes:
        """See Framing.failure."""
        return orjson.dumps({"error": self._statuses.value(status)}) + b"\n"


class SseFraming:
    """Server-Sent Events; a failure is an event ``error``.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    content_type = _EVENTS
    ping = b": ping\n\n"

    def __init__(self, binding: Binding, statuses: StatusWriter) -> None:
        self._binding, self._statuses = binding, statuses

    def message(self, message: bytes) -> bytes:
        """See Framing.message."""
        token, text = self._binding.event(message)
        if token and "\n" not in token and "\r" not in token and "\0" not in token:
            return b"id: " + token.encode() + b"\ndata: " + text + b"\n\n"
        return b"data: " + text + b"\n\n"

    def failure(self, status: status_pb2.Status) -> bytes:
        """See Framing.failure."""
        return b"event: error\ndata: " + self._statuses.json(status) + b"\n\n"


class RawFraming:
    """The bytes of google.api.HttpBody; the first message gives the content type."""

    ping = b""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.content_type = b""

    def message(self, message: bytes) -> bytes:
        """See Framing.message."""
        content_type, body = self._binding.body(message)
        self.content_type = self.content_type or content_type
        return body

    def failure(self, status: status_pb2.Status) -> None:
        """See Framing.failure."""


def framing_for(binding: Binding, headers: Mapping[bytes, bytes], statuses: StatusWriter) -> Framing:
    """How *binding*'s messages are told to a client that sent *headers*."""
    if binding.raw_answer:
        return RawFraming(binding)
    return (
        SseFraming(binding, statuses)
        if _EVENTS in headers.get(b"accept", b"").lower()
        else NdjsonFraming(binding, statuses)
    )


class StreamWriter:
    """The answer's body while it is written: begun late, pinged while nothing comes."""

    def __init__(self, send: Send, framing: Framing, begin_after: float, ping_every: float) -> None:
        self.begun = False
        self._send, self._framing = send, framing
        self._ping_every = ping_every
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._pings: set[asyncio.Task[None]] = set()
        # A status must be told before anything is known of a stream that is silent at first.
        self._timer = self._loop.call_later(begin_after, self._tick) if framing.content_type else None

    async def message(self, message: bytes) -> None:
        """Tell one message; waits while the client reads slowly."""
        text = self._framing.message(message)
        self._last = self._loop.time()
        await self._write(text)

    async def finish(self, status: status_pb2.Status | None = None) -> bool:
        """End the body, with the failure *status* if there is one; False where only a break tells it."""
        text = self._framing.failure(status) if status is not None else b""
        self.close()
        if text is None:
            return False
        await self._write(text, more=False)
        return True

    def close(self) -> None:
        """Stop pinging."""
        if self._timer is not None:
            self._timer.cancel()
        for ping in self._pings:
            ping.cancel()

    async def _write(self, text: bytes, *, more: bool = True) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers()})
        await self._send({"type": "http.response.body", "body": text, "more_body": more})

    def _headers(self) -> list[Header]:
        content_type = self._framing.content_type or b"application/octet-stream"
        # Proxies that gather an answer would hold events back.
        return [
            (b"content-type", content_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]

    def _tick(self) -> None:
        """Begin, or ping, where nothing was told for long enough; then look again later."""
        quiet = self._loop.time() - self._last
        if not self.begun or (self._framing.ping and quiet >= self._ping_every):
            ping = asyncio.create_task(self._write(self._framing.ping))
            self._pings.add(ping)
            ping.add_done_callback(self._pinged)
            self._last, quiet = self._loop.time(), 0.0
        self._timer = self._loop.call_later(max(0.05, self._ping_every - quiet), self._tick)

    def _pinged(self, ping: asyncio.Task[None]) -> None:
        self._pings.discard(ping)
        if not ping.cancelled() and ping.exception() is not None:
            # The client left: the task that reads the stream hears of it too.
            self.close()
