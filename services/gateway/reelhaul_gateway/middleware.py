"""Edge: what every request gets: an id, headers that keep browsers safe, a line in the log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import MutableMapping
from typing import Any

from google.rpc import code_pb2

from reelhaul_gateway import cors
from reelhaul_gateway.error_reasons import described
from reelhaul_runtime import logs
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.errors import Fault, FieldFault, Kind
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send, respond
from reelhaul_transcoding.http.status import status_of

log = logging.getLogger(__name__)
access = logging.getLogger("reelhaul_gateway.access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,64}")
_SAFE: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
_CLIENT_GONE = 499
# Asked every few seconds by who keeps us running: no news.
_PROBED = frozenset({"/healthz", "/readyz"})


class RequestMiddleware:
    """The outermost application."""

    def __init__(self, inner: Any, transcoder: Transcoder, *, open_to_all: bool) -> None:
        self._inner, self._transcoder, self._open_to_all = inner, transcoder, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        begun = time.perf_counter()
        request_id = _identified(scope)
        telling = RecordingSend(send, request_id)
        try:
            if complaint := self._complaint(scope):
                await self._turn_away(scope, telling, complaint)
            else:
                await self._inner(scope, receive, telling)
        except Exception:
            log.exception("unexpected failure")
            if telling.status or scope["type"] != "http":
                # The answer is cut: only a connection that breaks says so.
                raise
            await self._apologise(telling)
        finally:
            _note(scope, telling, time.perf_counter() - begun)

    def _complaint(self, scope: Scope) -> Fault | None:
        headers = dict(scope["headers"])
        if self._open_to_all and not cors.local(headers):
            return FieldFault("host", "must be an address or localhost while REELHAUL_AUTH=none")
        if cors.foreign(scope.get("method", ""), headers):
            return FieldFault("origin", "is another than this server's")
        return None

    async def _turn_away(self, scope: Scope, send: Send, complaint: Fault) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4403, "reason": complaint.text})
        else:
            await self._transcoder.refuse_fault(send, complaint)

    async def _apologise(self, send: Send) -> None:
        text = "internal error; the log holds it under this request id"
        status = status_of(Fault(Kind.INTERNAL, code_pb2.INTERNAL, text), described)
        await respond(send, 500, [], self._transcoder.statuses.json(status))


class RecordingSend:
    """A ``send`` that adds our headers and remembers what was answered."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.status = 0
        self.sent = 0
        self._send, self._request_id = send, request_id

    async def __call__(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            headers: list[Header] = list(event["headers"])
            named = {name for name, _ in headers}
            headers.extend(item for item in _SAFE.items() if item[0] not in named)
            headers.append((b"x-request-id", self._request_id))
            event["headers"] = headers
        elif event["type"] == "http.response.body":
            self.sent += len(event.get("body", b""))
        elif event["type"] == "websocket.close":
            self.status = event.get("code", 1000)
        await self._send(event)


def _identified(scope: Scope) -> bytes:
    """The id of the request, the caller's or a new one; and who it comes from, not who it says."""
    headers: list[Header] = [
        header for header in scope["headers"] if header[0] not in (b"x-request-id", b"x-forwarded-for")
    ]
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = given if _REQUEST_ID.fullmatch(given) else logs.new_request_id().encode()
    headers.append((b"x-request-id", request_id))
    if client := scope.get("client"):
        headers.append((b"x-forwarded-for", str(client[0]).encode()))
    scope["headers"] = headers
    logs.request_id.set(request_id.decode())
    trace = next((value for name, value in headers if name == b"traceparent"), b"")
    logs.traceparent.set(trace.decode("latin-1"))
    return request_id


def _note(scope: Scope, telling: RecordingSend, seconds: float) -> None:
    """One line for the request. Queries are left out: they hold URLs and tokens."""
    level = logging.DEBUG if scope["path"] in _PROBED else logging.INFO
    if not access.isEnabledFor(level):
        return
    access.log(
        level,
        "request",
        extra={
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "status": telling.status or _CLIENT_GONE,
            "bytes": telling.sent,
            "milliseconds": round(seconds * 1000, 1),
        },
    )
