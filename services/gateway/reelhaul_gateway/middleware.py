"""Middleware: request IDs, origin and host checks, security headers, the access log."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from google.rpc import code_pb2

from reelhaul_gateway.health import PROBE_PATHS
from reelhaul_runtime import logs
from reelhaul_transcoding.errors import ErrorKind, FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter

log = logging.getLogger(__name__)
access_log = logging.getLogger("reelhaul_gateway.access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,64}")
_SECURITY_HEADERS: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cache-control": b"no-store",
}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENT_CLOSED_REQUEST = 499
_WEBSOCKET_FORBIDDEN = 4403


class RequestMiddleware:
    """The outermost ASGI application. With *allow_anyone*, only local Host headers are accepted."""

    def __init__(self, app: Any, statuses: StatusWriter, *, allow_anyone: bool) -> None:
        self._app, self._statuses, self._allow_anyone = app, statuses, allow_anyone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; an unexpected failure becomes a 500."""
        start = time.perf_counter()
        request_id = _identify(scope)
        recorder = RecordingSend(send, request_id)
        try:
            if error := self._check(scope):
                await self._reject(scope, recorder, error)
            else:
                await self._app(scope, receive, recorder)
        except Exception:
            log.exception("unexpected failure")
            if recorder.status or scope["type"] != "http":
                # The response has started: only an aborted connection can show the failure.
                raise
            await self._send_internal_error(recorder)
        finally:
            _log_access(scope, recorder, time.perf_counter() - start)

    def _check(self, scope: Scope) -> TranscodingError | None:
        headers = dict(scope["headers"])
        if self._allow_anyone and not is_local_host(headers):
            return FieldError("host", "must be an IP address or localhost while REELHAUL_AUTH=none")
        if is_cross_origin_write(scope.get("method", ""), headers):
            return FieldError("origin", "must be this server's own origin")
        return None

    async def _reject(self, scope: Scope, send: Send, error: TranscodingError) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _WEBSOCKET_FORBIDDEN, "reason": error.message})
        else:
            await self._statuses.send_error(send, error)

    async def _send_internal_error(self, send: Send) -> None:
        message = "internal error; see the log for this request ID"
        error = TranscodingError(ErrorKind.INTERNAL, code_pb2.INTERNAL, message)
        await self._statuses.send_error(send, error)


class RecordingSend:
    """A ``send`` that adds the security headers and the request ID, and records status and size."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.status = 0
        self.bytes_sent = 0
        self._send, self._request_id = send, request_id

    async def __call__(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            headers: list[Header] = list(event["headers"])
            names = {name for name, _ in headers}
            headers.extend(header for header in _SECURITY_HEADERS.items() if header[0] not in names)
            headers.append((b"x-request-id", self._request_id))
            event["headers"] = headers
        elif event["type"] == "http.response.body":
            self.bytes_sent += len(event.get("body", b""))
        elif event["type"] == "websocket.close":
            self.status = event.get("code", 1000)
        await self._send(event)


def is_cross_origin_write(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a page of another origin sent a request that is not a plain read.

    Browsers let any page open a WebSocket to a loopback address and post simple forms to it.
    *method* is empty for a WebSocket.
    """
    origin = headers.get(b"origin")
    if origin is None or method in _SAFE_METHODS:
        return False
    return urlsplit(origin).netloc.lower() != headers.get(b"host", b"").lower()


def is_local_host(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether Host is an IP address or localhost, against DNS rebinding.

    A page whose owner points its host name at 127.0.0.1 is of "the same origin" as this server.
    """
    host = urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # HTTP/1.0 without Host: not a browser.
        return not host
    return True


def _identify(scope: Scope) -> bytes:
    """Set X-Request-Id (the caller's or a new one) and X-Forwarded-For (the real peer); return the ID."""
    headers: list[Header] = [
        header for header in scope["headers"] if header[0] not in (b"x-request-id", b"x-forwarded-for")
    ]
    caller_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = caller_id if _REQUEST_ID.fullmatch(caller_id) else logs.new_request_id().encode()
    headers.append((b"x-request-id", request_id))
    if client := scope.get("client"):
        headers.append((b"x-forwarded-for", str(client[0]).encode()))
    scope["headers"] = headers
    logs.request_id.set(request_id.decode())
    trace = next((value for name, value in headers if name == b"traceparent"), b"")
    logs.traceparent.set(trace.decode("latin-1"))
    return request_id


def _log_access(scope: Scope, recorder: RecordingSend, seconds: float) -> None:
    """Log one line for the request. Queries are omitted, since they contain URLs and tokens."""
    # Probes arrive every few seconds.
    level = logging.DEBUG if scope["path"] in PROBE_PATHS else logging.INFO
    if not access_log.isEnabledFor(level):
        return
    access_log.log(
        level,
        "request",
        extra={
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "status": recorder.status or _CLIENT_CLOSED_REQUEST,
            "bytes": recorder.bytes_sent,
            "milliseconds": round(seconds * 1000, 1),
        },
    )
