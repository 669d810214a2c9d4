"""Sockets: a server stream over a WebSocket: one JSON text frame a message, and a close code at last."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.rpc import code_pb2, status_pb2

from reelhaul_transcoding.errors import Draining, Fault, NoRoute
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.http.cancellation import CancelScope
from reelhaul_transcoding.http.status import http_status_of
from reelhaul_transcoding.upstream import UpstreamError

if TYPE_CHECKING:
    from reelhaul_transcoding.app import Target, Transcoder
    from reelhaul_transcoding.upstream import Call

#: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
NORMAL, INTERNAL, RESTART = 1000, 1011, 1012
# A close frame's reason is at most 123 bytes.
_MAX_REASON = 120


def close_code(code: int) -> int:
    """The close code for a google.rpc.Code: 1000, 1012 (come back), or 4000 + its HTTP status."""
    if code == code_pb2.OK:
        return NORMAL
    if code == code_pb2.UNAVAILABLE:
        return RESTART
    return INTERNAL if http_status_of(code) >= 500 else 4000 + http_status_of(code)


async def serve_socket(transcoder: Transcoder, scope: Scope, receive: Receive, send: Send) -> None:
    """Stream to a WebSocket what a GET of its URL streams.

    The socket is accepted before anything is checked: browsers show close codes, but not
    the status of a refused handshake.
    """
    await receive()
    protocols = scope.get("subprotocols") or []
    await send({"type": "websocket.accept", "subprotocol": protocols[0] if protocols else None})
    try:
        match = transcoder.matched("GET", scope)
        if not match.target.binding.server_streaming or match.target.binding.raw_answer:
            raise NoRoute("WEBSOCKET", scope["path"])
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        call = transcoder.call(match, scope, headers, b"")
        status = await _streamed(transcoder, match.target, call, receive, send)
    except Fault as fault:
        status = transcoder.fault_status(fault)
    if status is not None:
        await _close(transcoder, send, status)


async def _streamed(
    transcoder: Transcoder, target: Target, call: Call, receive: Receive, send: Send
) -> status_pb2.Status | None:
    """How the stream ended; None where the client left."""
    ending = CancelScope(receive)
    transcoder.begin(ending)
    try:
        async with ending, aclosing(target.upstream.stream(call)) as messages:  # type: ignore[type-var]
            async for message in messages:
                text = target.binding.event(message)[1].decode()
                await send({"type": "websocket.send", "text": text})
    except UpstreamError as error:
        return error.status
    finally:
        transcoder.finish(ending)
    if ending.reason == "gone":
        return None
    return transcoder.fault_status(Draining()) if ending.reason == "draining" else status_pb2.Status()


async def _close(transcoder: Transcoder, send: Send, status: status_pb2.Status) -> None:
    if status.code:
        frame = transcoder.statuses.json(status).decode()
        await send({"type": "websocket.send", "text": '{"error":' + frame + "}"})
    reason = status.message.encode()[:_MAX_REASON].decode(errors="ignore")
    await send({"type": "websocket.close", "code": close_code(status.code), "reason": reason})
