"""HTTP/1.1 responses: in the place of uvicorn's, whose head and body are two writes. RFC 9112"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send

# https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROLS = bytes({*range(0x20), 0x7F} - {ord("\t")})
_STATUSES_WITHOUT_BODY = frozenset({204, 304})
# More than all names that responses have.
_CACHED_NAMES = 256
# Copying more takes longer than a second write.
_MAX_COPIED_BYTES = 256 << 10


class ResponseWriter:
    """The ASGI application *app* for one request, with a ``send`` of its own; *cycle* is uvicorn's request.

    The head of a response leaves in one write with the first part of its body, before which ASGI sends
    nothing. With two, the kernel does all its work of a response twice, and clients receive it in two parts.
    """

    __slots__ = ("_app", "_cycle", "_head")

    def __init__(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._cycle, self._app = cycle, app
        # While it waits for the first part of the body.
        self._head = b""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        await self._app(scope, receive, self._send)

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        """Send an ASGI message. Raises RuntimeError if it must not come now, or has invalid headers."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not cycle.response_started:
            self._head = self._format_head(message["status"], message["headers"])
            cycle.response_started, cycle.waiting_for_100_continue = True, False
        elif kind == "http.response.body" and cycle.response_started and not cycle.response_complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the ASGI message {kind!r} must not be sent now")

    def _format_head(self, status: int, headers: list[Header]) -> bytes:
        cycle = self._cycle
        fields = [*cycle.default_headers, *headers]
        lines = [_start_of_line(name) + value for name, value in fields]
        by_name = dict(fields)
        length = by_name.get(b"content-length")
        if length is not None:
            cycle.expected_content_length = int(length)
        elif cycle.scope["method"] != "HEAD" and status not in _STATUSES_WITHOUT_BODY:
            cycle.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        if by_name.get(b"connection") == b"close":
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(b"connection: close")
        text = b"".join(lines)
        if text.translate(None, _CONTROLS) != text:
            raise RuntimeError("a header contains a control character")
        return STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"

    def _write(self, body: bytes, *, more: bool) -> None:
        """Write a part of the body; the last part unless *more*."""
        cycle = self._cycle
        parts = [self._head] if self._head else []
        self._head = b""
        if cycle.scope["method"] == "HEAD":
            cycle.expected_content_length = 0
        elif cycle.chunked_encoding:
            if body:
                parts += [b"%x\r\n" % len(body), body, b"\r\n"]
            if not more:
                parts.append(b"0\r\n\r\n")
        else:
            cycle.expected_content_length -= len(body)
            if cycle.expected_content_length < 0:
                raise RuntimeError("the body is longer than its Content-Length")
            parts.append(body)
        if len(body) <= _MAX_COPIED_BYTES:
            cycle.transport.write(b"".join(parts))
        else:
            cycle.transport.writelines(parts)
        if not more:
            self._complete()

    def _complete(self) -> None:
        cycle = self._cycle
        if cycle.expected_content_length:
            raise RuntimeError("the body is shorter than its Content-Length")
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


@lru_cache(_CACHED_NAMES)
def _start_of_line(name: bytes) -> bytes:
    """Return what precedes the value of a header. Raises RuntimeError if *name* is none."""
    if _NAME.fullmatch(name) is None:
        raise RuntimeError(f"{name!r} is not the name of a header")
    return name.lower() + b": "
