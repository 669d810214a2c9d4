"""Server streams over HTTP: NDJSON, Server-Sent Events, a JSON array, or the raw bytes of HttpBody.

A failure after the first message is always visible: as the last line, as an event, or as an
aborted connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

import orjson
from google.rpc import status_pb2

from reelhaul_transcoding.binding.binding import Binding
from reelhaul_transcoding.errors import Draining
from reelhaul_transcoding.http.accept import preferred_type
from reelhaul_transcoding.http.asgi import Header, Receive, Send
from reelhaul_transcoding.http.cancellation import CancelScope, OpenStreams
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError

_NDJSON, _EVENT_STREAM, _JSON = b"application/x-ndjson", b"text/event-stream", b"application/json"
_MIN_TIMER_SECONDS = 0.05


async def relay_stream(
    upstream: Upstream,
    call: Call,
    receive: Receive,
    open_streams: OpenStreams,
    statuses: StatusWriter,
    write: Callable[[bytes], Awaitable[None]],
) -> status_pb2.Status | None:
    """Pass each message of a server stream to *write*; return the final status.

    The next message is read when *write* returns, so a slow client slows the upstream by its
    flow control. Returns None if the client disconnected. Raises Draining if the server is
    already draining.
    """
    status = status_pb2.Status()
    scope = CancelScope(receive)
    open_streams.add(scope)
    try:
        async with scope, aclosing(upstream.stream(call)) as messages:
            async for message in messages:
                await write(message)
    except UpstreamError as error:
        status = error.status
    finally:
        open_streams.remove(scope)
    if scope.reason == "draining":
        status = statuses.status_of(Draining())
    return None if scope.reason == "disconnected" else status


class Framing(Protocol):
    """The format of a stream in an HTTP body."""

    content_type: bytes
    #: HTTP status of a stream that ends without a message.
    empty_status: int
    #: Bytes that only show that the stream is alive; empty if the format has none.
    ping: bytes

    def message(self, message: bytes) -> bytes:
        """Return the frame of one message."""

    def end(self) -> bytes:
        """Return the last frame of a stream that succeeded."""

    def failure(self, status: status_pb2.Status) -> bytes | None:
        """Return the last frame of a failed stream; None if only an aborted connection can show it."""


class NdjsonFraming:
    """NDJSON: lines of ``{"result": …}``, and ``{"error": …}`` as the last line of a failed stream."""

    content_type = _NDJSON
    empty_status = 200
    # No empty lines as pings: parsers that take one line at a time would fail on them.
    ping = b""

    def __init__(self, binding: Binding, statuses: StatusWriter) -> None:
        self._binding, self._statuses = binding, statuses

    def message(self, message: bytes) -> bytes:
        return b'{"result":' + self._binding.encode(message) + b"}\n"

    def end(self) -> bytes:
        return b""

    def failure(self, status: status_pb2.Status) -> bytes:
        return orjson.dumps({"error": self._statuses.to_dict(status)}) + b"\n"


class SseFraming:
    """Server-Sent Events; a failure is an event ``stream_error``.

    An EventSource fires ``error`` itself when it loses the connection, so no event has that name.
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    content_type = _EVENT_STREAM
    # An EventSource reconnects after the end of a stream, unless the status is 204.
    empty_status = 204
    ping = b": ping\n\n"

    def __init__(self, binding: Binding, statuses: StatusWriter) -> None:
        self._binding, self._statuses = binding, statuses

    def message(self, message: bytes) -> bytes:
        event_id, name, data = self._binding.stream_event(message)
        frame = b"data: " + data + b"\n\n"
        if name:
            frame = b"event: " + name.encode() + b"\n" + frame
        if event_id and "\n" not in event_id and "\r" not in event_id and "\0" not in event_id:
            frame = b"id: " + event_id.encode() + b"\n" + frame
        return frame

    def end(self) -> bytes:
        return b""

    def failure(self, status: status_pb2.Status) -> bytes:
        return b"event: stream_error\ndata: " + self._statuses.to_json(status) + b"\n\n"


class ArrayFraming:
    """One JSON array. A failure aborts the connection, so that the array does not look complete."""

    content_type = _JSON
    empty_status = 200
    ping = b""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._separator = b"["

    def message(self, message: bytes) -> bytes:
        frame = self._separator + self._binding.encode(message)
        self._separator = b","
        return frame

    def end(self) -> bytes:
        return b"[]" if self._separator == b"[" else b"]"

    def failure(self, status: status_pb2.Status) -> None:
        return None


class RawFraming:
    """The bytes of google.api.HttpBody; the first message sets the content type."""

    empty_status = 200
    ping = b""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.content_type = b""

    def message(self, message: bytes) -> bytes:
        content_type, body = self._binding.response_body(message)
        self.content_type = self.content_type or content_type
        return body

    def end(self) -> bytes:
        return b""

    def failure(self, status: status_pb2.Status) -> None:
        return None


def select_framing(
    binding: Binding, headers: Mapping[bytes, bytes], statuses: StatusWriter, *, arrays: bool
) -> Framing:
    """Return the framing of *binding* that a client with *headers* prefers; without Accept, NDJSON.

    JSON arrays are offered only if *arrays* is set.
    """
    if binding.raw_response:
        return RawFraming(binding)
    offers = (_NDJSON, _EVENT_STREAM, _JSON) if arrays else (_NDJSON, _EVENT_STREAM)
    media_type = preferred_type(headers.get(b"accept", b""), offers)
    if media_type == _EVENT_STREAM:
        return SseFraming(binding, statuses)
    return ArrayFraming(binding) if media_type == _JSON else NdjsonFraming(binding, statuses)


class StreamWriter:
    """Writes a stream as a response body: starts it late, and pings while no message arrives.

    The response starts with the first message, so that an earlier failure still sets its HTTP
    status; but after *start_after* seconds at the latest.
    """

    def __init__(self, send: Send, framing: Framing, *, start_after: float, ping_every: float) -> None:
        self.started = False
        self._status = 200
        self._send, self._framing = send, framing
        self._ping_every = ping_every
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        # Whether a write waits for the client. Pings that wait as well would only pile up behind it.
        self._is_writing = False
        self._ping: asyncio.Task[None] | None = None
        # A raw stream has no content type before its first message, so it cannot start earlier.
        self._timer = self._loop.call_later(start_after, self._on_timer) if framing.content_type else None

    async def write(self, message: bytes) -> None:
        """Write one message; waits while the client reads slowly."""
        await self._write_frame(self._framing.message(message))

    async def finish(self, failure: status_pb2.Status | None = None) -> bool:
        """End the body, with *failure* if the stream failed.

        Returns False if only an aborted connection can show the failure.
        """
        frame = self._framing.failure(failure) if failure is not None else self._framing.end()
        if frame is None:
            return False
        if not frame and not self.started:
            self._status = self._framing.empty_status
        await self._write_frame(frame, more=False)
        return True

    def close(self) -> None:
        """Stop the pings."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()

    async def _write_frame(self, frame: bytes, *, more: bool = True) -> None:
        if self._ping is not None:
            await asyncio.wait([self._ping])
        self._is_writing = True
        try:
            await self._write_body(frame, more)
        finally:
            self._is_writing = False
        self._last_write = self._loop.time()

    async def _write_body(self, body: bytes, more: bool) -> None:
        if not self.started:
            await self._send(
                {"type": "http.response.start", "status": self._status, "headers": self._headers()}
            )
            self.started = True
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _headers(self) -> list[Header]:
        return [
            (b"content-type", self._framing.content_type or b"application/octet-stream"),
            (b"cache-control", b"no-cache"),
            (b"vary", b"accept"),
            # Proxies that buffer responses would delay the events.
            (b"x-accel-buffering", b"no"),
        ]

    def _on_timer(self) -> None:
        """Start the response, or ping if it is silent for long enough; then set the next timer."""
        silence = self._loop.time() - self._last_write
        is_due = not self.started or (self._framing.ping and silence >= self._ping_every)
        if is_due and not self._is_writing and self._ping is None:
            self._ping = asyncio.create_task(self._write_body(self._framing.ping, True))
            self._ping.add_done_callback(self._on_ping_done)
            self._last_write, silence = self._loop.time(), 0.0
        delay = max(_MIN_TIMER_SECONDS, self._ping_every - silence)
        self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_ping_done(self, ping: asyncio.Task[None]) -> None:
        self._ping = None
        if not ping.cancelled() and ping.exception() is not None:
            # The client disconnected; the task that reads the stream handles it.
            self.close()
