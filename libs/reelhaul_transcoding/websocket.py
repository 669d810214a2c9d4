"""WebSocket: a server stream as one JSON text frame for each message, then a close code."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from google.rpc import code_pb2, status_pb2

from reelhaul_transcoding.dispatcher import Dispatcher
from reelhaul_transcoding.errors import RouteNotFound, TranscodingError
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.http.cancellation import OpenStreams
from reelhaul_transcoding.http.headers import combine_headers
from reelhaul_transcoding.http.status import StatusWriter, http_status_of
from reelhaul_transcoding.options import Authorize
from reelhaul_transcoding.streams import relay_stream
from reelhaul_transcoding.upstream import UpstreamError

#: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
NORMAL_CLOSURE, POLICY_VIOLATION, INTERNAL_ERROR, SERVICE_RESTART = 1000, 1008, 1011, 1012
# The reason of a close frame has at most 123 bytes.
_MAX_REASON_BYTES = 120
# A stream takes no input, but some clients send messages to keep the connection open.
_MAX_CLIENT_MESSAGES, _CLIENT_MESSAGES_PER_SECOND = 100, 1


class WebSocketHandler:
    """Streams to a WebSocket what a GET of its URL streams."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        statuses: StatusWriter,
        open_streams: OpenStreams,
        authorize: Authorize | None = None,
    ) -> None:
        self._dispatcher, self._statuses, self._open_streams = dispatcher, statuses, open_streams
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection.

        It is accepted before any check: browsers show close codes to pages, but not the
        status of a rejected handshake.
        """
        # What ASGI's send raises once the client has disconnected.
        with suppress(OSError):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        protocols = scope.get("subprotocols") or []
        await send({"type": "websocket.accept", "subprotocol": protocols[0] if protocols else None})
        try:
            status = await self._stream(scope, _Input(receive, send).receive, send)
        except TranscodingError as error:
            status = self._statuses.status_of(error)
        except UpstreamError as error:
            status = error.status
        if status is not None:
            await self._close(send, status)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> status_pb2.Status | None:
        """Relay the stream; return its final status, or None if the client disconnected."""
        match = self._dispatcher.match("GET", scope)
        binding = match.target.binding
        if not binding.server_streaming or binding.raw_response:
            raise RouteNotFound("WEBSOCKET", scope["path"])
        if self._authorize is not None:
            await self._authorize(binding.method, scope)
        call = self._dispatcher.build_call(match, scope, combine_headers(scope["headers"]), b"")

        async def write(message: bytes) -> None:
            await send({"type": "websocket.send", "text": binding.encode(message).decode()})

        return await relay_stream(
            match.target.upstream, call, receive, self._open_streams, self._statuses, write
        )

    async def _close(self, send: Send, status: status_pb2.Status) -> None:
        if status.code:
            error = self._statuses.to_json(status).decode()
            await send({"type": "websocket.send", "text": '{"error":' + error + "}"})
        reason = status.message.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        await send({"type": "websocket.close", "code": close_code_of(status.code), "reason": reason})


class _Input:
    """The messages of a client: they are ignored, and too many close the connection with 1008."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._count = 0
        self._start = asyncio.get_running_loop().time()

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next ASGI message; a disconnect if the client has sent too many."""
        event = await self._receive()
        if event["type"] != "websocket.receive":
            return event
        self._count += 1
        seconds = asyncio.get_running_loop().time() - self._start
        if self._count <= _MAX_CLIENT_MESSAGES + seconds * _CLIENT_MESSAGES_PER_SECOND:
            return event
        reason = "a stream takes no messages"
        await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}


def close_code_of(code: int) -> int:
    """Return the close code for a google.rpc.Code.

    1000 for OK, 1012 (reconnect) for UNAVAILABLE, 1011 for other server errors, else 4000 plus
    the HTTP status.
    """
    if code == code_pb2.OK:
        return NORMAL_CLOSURE
    if code == code_pb2.UNAVAILABLE:
        return SERVICE_RESTART
    return INTERNAL_ERROR if http_status_of(code) >= 500 else 4000 + http_status_of(code)
