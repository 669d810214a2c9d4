"""HTTP/2: an ASGI server for one connection, within the limits of HTTP/1.1. h2 implements the protocol.

RFC 9113. Server push, priorities and WebSockets over HTTP/2 are not offered.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from http import HTTPStatus
from itertools import chain
from typing import Any, cast
from urllib.parse import unquote

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from uvicorn.protocols.utils import get_local_addr, is_ssl
from uvicorn.server import ServerState

from reelhaul_gateway.connections import MAX_HEAD_BYTES, MAX_HEADERS, ConnectionTable, Handshake
from reelhaul_gateway.http1 import HttpConnection
from reelhaul_gateway.refusals import refuse
from reelhaul_runtime import listeners

log = logging.getLogger(__name__)

_MAX_STREAMS = 100
# Bytes of bodies that were sent and that the application has not read: of one stream, and of all.
_STREAM_WINDOW = 256 << 10
_CONNECTION_WINDOW = 1 << 20
_DEFAULT_WINDOW = 65_535
# Streams that a client may reset beyond those that it lets finish. Resets free a place in MAX_STREAMS, but
# not at once what the request occupies (CVE-2023-44487).
_MAX_RESETS = 100
# Applications of streams, of which those of reset streams may still run.
_MAX_TASKS = 2 * _MAX_STREAMS
# Bytes that a client may send at once, per second, and beyond so many times those of requests and responses:
# PING, SETTINGS, PRIORITY and the like cost far more than they weigh (CVE-2019-9512 and its relatives).
_FREE_BYTES, _FREE_BYTES_PER_SECOND, _MAX_OVERHEAD = 256 << 10, 1024, 8
# https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
_CONNECTION_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
# Visible ASCII without the start of a fragment.
_PATH = re.compile(rb'/[!"$-~]*|\*')


class Http2Connection(asyncio.Protocol):
    """A connection that speaks HTTP/2, in the place of *predecessor*, by which it was accepted."""

    def __init__(
        self,
        table: ConnectionTable,
        predecessor: Handshake | HttpConnection,
        app: Any,
        server_state: ServerState,
        keep_alive: float,
    ) -> None:
        self._table, self._predecessor = table, predecessor
        self._app = app if predecessor.within_limits else table.overloaded
        self._server_state, self._keep_alive = server_state, keep_alive
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Streams that the client let finish, and those that it reset.
        self._finished = self._resets = 0
        # Bytes that were received, and those of heads and bodies in both directions.
        self._received_bytes = self._payload_bytes = 0
        self._start = self._idle_since = self._last_check = self._loop.time()
        self._draining = False
        #: Whether the client does not take what was written.
        self.is_blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._table.replace(self._predecessor, self)
        connections: set[Any] = self._server_state.connections
        connections.add(self)
        self._client, self._server = self._predecessor.client, get_local_addr(self._transport)
        self._scheme = "https" if is_ssl(self._transport) else "http"
        limits = {
            SettingCodes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
            SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
        }
        self._h2.local_settings = Settings(client=False, initial_values=limits)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - _DEFAULT_WINDOW)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        connections: set[Any] = self._server_state.connections
        connections.discard(self)
        for stream in [*self._streams.values()]:
            self._disconnect(stream)

    def data_received(self, data: bytes) -> None:
        try:
            received = self._h2.receive_data(data)
        except ProtocolError as error:
            log.debug("a client violated HTTP/2: %s", error)
            self._close()  # h2 has prepared GOAWAY with the reason
            return
        for event in received:
            if self._transport.is_closing():
                return
            self._handle(event)
        self._received_bytes += len(data)
        free_bytes = _FREE_BYTES + _FREE_BYTES_PER_SECOND * (self._loop.time() - self._start)
        if self._received_bytes > free_bytes + _MAX_OVERHEAD * self._payload_bytes:
            self._terminate(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        self.flush()
        if self.is_blocked and not self._transport.is_closing():
            # It must not provoke responses, such as those to PING and SETTINGS, that it does not read.
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.is_blocked = True

    def resume_writing(self) -> None:
        self.is_blocked = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._wake_streams()

    def shutdown(self) -> None:
        """Accept no more streams, and close the connection after those that are open."""
        self._draining = True
        if self._transport.is_closing():
            return
        # h2 cannot send GOAWAY and then finish streams. https://www.rfc-editor.org/rfc/rfc9113#section-6.8
        goaway = struct.pack(
            ">HBBBIII", 0, 8, 7, 0, 0, self._h2.highest_inbound_stream_id, ErrorCodes.NO_ERROR
        )
        self._transport.write(goaway)
        if not self._streams:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """Close an idle connection, and refuse bodies that take too long."""
        pause, self._last_check = now - self._last_check, now
        if not self._streams:
            is_new = not (self._finished or self._resets)
            if now - self._idle_since > (self._table.limits.head_seconds if is_new else self._keep_alive):
                self._terminate(ErrorCodes.NO_ERROR)
        for stream in [*self._streams.values()]:
            if stream.is_unread:
                stream.body_start += pause  # it waits for us
            elif not stream.is_received and self._table.limits.is_body_late(
                now - stream.body_start, stream.body_bytes
            ):
                self._refuse(stream, HTTPStatus.REQUEST_TIMEOUT)

    # Events of the client.

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                self._open_stream(event.stream_id, event.headers)
            case events.DataReceived():
                self._receive_body(event.stream_id, event.data, event.flow_controlled_length)
            case events.StreamEnded() if event.stream_id in self._streams:
                self._streams[event.stream_id].end_body()
            case events.StreamReset() if event.stream_id in self._streams:
                self._resets += 1
                self._disconnect(self._streams[event.stream_id])
                if self._resets > _MAX_RESETS + self._finished:
                    self._terminate(ErrorCodes.ENHANCE_YOUR_CALM)
            case events.WindowUpdated() | events.RemoteSettingsChanged():
                self._wake_streams()
            case events.ConnectionTerminated():
                # h2 could not finish streams either.
                self._close()

    def _open_stream(self, stream_id: int, head: list[Any]) -> None:
        if self._draining:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = {bytes(name): bytes(value) for name, value in head if name.startswith(b":")}
        headers = [(bytes(name), bytes(value)) for name, value in head if not name.startswith(b":")]
        if b":authority" in pseudo and all(name != b"host" for name, _ in headers):
            headers.insert(0, (b"host", pseudo[b":authority"]))
        stream = _Stream(self, stream_id, self._build_scope(pseudo, headers))
        self._streams[stream_id] = stream
        self._table.mark_busy(self)
        head_bytes = sum(map(len, chain.from_iterable(head)))
        self._payload_bytes += head_bytes
        if not _PATH.fullmatch(pseudo.get(b":path", b"")):
            self._refuse(stream, HTTPStatus.BAD_REQUEST)
        elif len(headers) > MAX_HEADERS or head_bytes > MAX_HEAD_BYTES:
            self._refuse(stream, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif len(self._tasks) >= _MAX_TASKS:
            self._terminate(ErrorCodes.ENHANCE_YOUR_CALM)
        else:
            task = self._loop.create_task(self._run(stream))
            for tasks in (self._tasks, self._server_state.tasks):
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    def _build_scope(self, pseudo: dict[bytes, bytes], headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        path, _, query = pseudo.get(b":path", b"").partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": pseudo[b":method"].decode("latin-1"),
            "root_path": "",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "state": {},
        }

    def _receive_body(self, stream_id: int, data: bytes, size_with_padding: int) -> None:
        stream = self._streams.get(stream_id)
        self.acknowledge(stream_id, size_with_padding - (len(data) if stream else 0))
        if stream is not None:
            self._payload_bytes += len(data)
            self._table.body_bytes += len(data)
            stream.add_body(data)
            if self._table.body_bytes > self._table.limits.total_body_bytes:
                self._refuse(stream, HTTPStatus.SERVICE_UNAVAILABLE)

    # What streams do.

    def flush(self) -> None:
        """Write the frames that h2 has for the client."""
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send *size* more bytes of bodies."""
        if size:
            with suppress(ProtocolError):
                self._h2.acknowledge_received_data(size, stream_id)

    def send_head(
        self, stream: _Stream, status: int, headers: list[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        """Send the head of a response, or all of it."""
        fields = [(b":status", b"%d" % status), *self._server_state.default_headers]
        lower = [(name.lower(), value) for name, value in headers]
        fields += [(name, value) for name, value in lower if name not in _CONNECTION_HEADERS]
        self._h2.send_headers(stream.id, fields, end_stream=end)
        self.flush()

    async def send_body(self, stream: _Stream, data: bytes, *, end: bool) -> None:
        """Send a part of the body of a response, as fast as the client takes it."""
        rest = memoryview(data)
        while not stream.is_disconnected:
            size = min(
                len(rest), self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size
            )
            if self.is_blocked or (rest and size <= 0):
                await self._wait_for_client(stream, needs_window=bool(rest))
                continue
            is_last = size == len(rest)
            if size or end:
                self._h2.send_data(stream.id, rest[:size], end_stream=end and is_last)
                self._payload_bytes += size
                self.flush()
            rest = rest[size:]
            if is_last:
                return

    async def _wait_for_client(self, stream: _Stream, *, needs_window: bool) -> None:
        """Wait until *stream* can send; reset it if that takes too long, whatever other streams may send."""
        try:
            async with asyncio.timeout(listeners.SEND_TIMEOUT_SECONDS):
                while not stream.is_disconnected and (
                    self.is_blocked or (needs_window and self._h2.local_flow_control_window(stream.id) <= 0)
                ):
                    stream.can_send.clear()
                    await stream.can_send.wait()
        except TimeoutError:
            self._reset(stream.id, ErrorCodes.CANCEL)
            self._disconnect(stream)

    def finish(self, stream: _Stream) -> None:
        """Forget a stream whose response is complete."""
        self._finished += 1
        self._disconnect(stream)
        if not stream.is_received:
            # The client should send no more of the body. https://www.rfc-editor.org/rfc/rfc9113#section-8.1
            self._reset(stream.id, ErrorCodes.NO_ERROR)

    async def _run(self, stream: _Stream) -> None:
        try:
            await self._app(stream.scope, stream.receive, stream.send)
        except Exception:
            # The application has logged it.
            log.debug("the application failed", exc_info=True)
        finally:
            if not stream.is_disconnected:
                self._refuse(stream, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _refuse(self, stream: _Stream, status: HTTPStatus) -> None:
        """Send *status*, or reset the stream if another response has started."""
        if stream.is_started:
            self._reset(stream.id, ErrorCodes.INTERNAL_ERROR)
            self._disconnect(stream)
        else:
            client = self._client[0] if self._client else ""
            refusal = refuse(status, client, with_body=stream.scope["method"] != "HEAD")
            try:
                self.send_head(stream, status, refusal.headers, end=not refusal.body)
                if refusal.body:
                    self._h2.send_data(stream.id, refusal.body, end_stream=True)
                    self.flush()
            except ProtocolError:
                # In the data that was just received the client has reset the stream, ended the connection, or
                # closed the window.
                self._reset(stream.id, ErrorCodes.CANCEL)
            self.finish(stream)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):
            self._h2.reset_stream(stream_id, code)
        self.flush()

    def _disconnect(self, stream: _Stream) -> None:
        """Forget *stream*, of which the application gets and sends no more."""
        if self._streams.pop(stream.id, None) is None:
            return
        self._table.body_bytes -= stream.body_bytes
        self.acknowledge(stream.id, stream.disconnect())
        if not self._streams:
            self._idle_since = self._loop.time()
            self._table.mark_idle(self)
            if self._draining:
                self._transport.close()

    def _terminate(self, code: ErrorCodes) -> None:
        with suppress(ProtocolError):
            self._h2.close_connection(code)
        self._close()

    def _close(self) -> None:
        self.flush()
        for stream in [*self._streams.values()]:
            self._disconnect(stream)
        self._transport.close()

    def _wake_streams(self) -> None:
        for stream in self._streams.values():
            stream.can_send.set()


class _Stream:
    """A request and its response: ``receive`` and ``send`` of ASGI."""

    def __init__(self, connection: Http2Connection, stream_id: int, scope: dict[str, Any]) -> None:
        self._connection, self.id, self.scope = connection, stream_id, scope
        # The part of the body that the application has not read, and the size of all that was received.
        self._unread = bytearray()
        self.body_bytes = 0
        self.body_start = asyncio.get_running_loop().time()
        #: Whether the body was received completely, and whether the application has read its end.
        self.is_received = self._is_end_read = False
        #: Whether the response has started; whether it has ended, or nobody waits for it.
        self.is_started = self.is_disconnected = False
        self._has_news = asyncio.Event()
        self.can_send = asyncio.Event()

    @property
    def is_unread(self) -> bool:
        """Whether the application has not read all that was received."""
        return bool(self._unread)

    def add_body(self, data: bytes) -> None:
        """Add a part of the body."""
        self._unread += data
        self.body_bytes += len(data)
        self._has_news.set()

    def end_body(self) -> None:
        """Record that the body is complete."""
        self.is_received = True
        self._has_news.set()

    def disconnect(self) -> int:
        """End the stream; return the bytes of the body that are dropped."""
        dropped = len(self._unread)
        self._unread.clear()
        self.is_disconnected = True
        self._has_news.set()
        self.can_send.set()
        return dropped

    async def receive(self) -> dict[str, Any]:
        """Return what has arrived of the body, or the end of the stream."""
        while not self.is_disconnected and not self._unread and self.is_received == self._is_end_read:
            self._has_news.clear()
            await self._has_news.wait()
        if self.is_disconnected:
            return {"type": "http.disconnect"}
        body = bytes(self._unread)
        self._unread.clear()
        self._is_end_read = self.is_received
        self._connection.acknowledge(self.id, len(body))
        self._connection.flush()
        return {"type": "http.request", "body": body, "more_body": not self.is_received}

    async def send(self, event: MutableMapping[str, Any]) -> None:
        """Send a part of the response; nothing if nobody waits for it."""
        if self.is_disconnected:
            return
        if event["type"] == "http.response.start":
            self.is_started = True
            self._connection.send_head(self, event["status"], list(event.get("headers", ())), end=False)
        elif event["type"] == "http.response.body":
            is_end = not event.get("more_body", False)
            body = b"" if self.scope["method"] == "HEAD" else event.get("body", b"")
            await self._connection.send_body(self, body, end=is_end)
            if is_end and not self.is_disconnected:
                self._connection.finish(self)
