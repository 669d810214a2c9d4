"""Middleware: request IDs, origin and host checks, security headers, the access log."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from google.rpc import code_pb2

from reelhaul_gateway.health import PROBE_PATHS
from reelhaul_runtime import logs
from reelhaul_runtime.identity import LOCAL_TENANT
from reelhaul_transcoding.errors import ErrorKind, FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter

log = logging.getLogger(__name__)
access_log = logging.getLogger("reelhaul_gateway.access")

# The id of a job in a path: v1/jobs/{id}:cancel, api/v1/status/{id}.
_JOB = re.compile(r"/(?:jobs|api/v1/[a-z_]{1,32})/([0-9a-fA-F-]{36})(?![0-9a-fA-F-])")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,64}")
# host [":" port] of RFC 9110 section 7.2: an address in brackets, or letters that DNS and browsers use.
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._\-]{1,255}))(?::\d{1,5})?")
# The relations of a page to this server from which its requests with effects are accepted; ``none`` is a
# request of the user's own, e.g. by the address bar. https://www.w3.org/TR/fetch-metadata/
_OWN_SITE = frozenset({b"same-origin", b"none"})
_SECURITY_HEADERS: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENT_CLOSED_REQUEST = 499
_WEBSOCKET_FORBIDDEN = 4403


class RequestMiddleware:
    """The outermost ASGI application.

    With *allow_anyone*, only local Host headers are accepted. *has_effects* says of a GET or HEAD
    whether it does more than read, so that pages of other origins must not send it.
    """

    def __init__(
        self,
        app: Any,
        statuses: StatusWriter,
        *,
        allow_anyone: bool,
        has_effects: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self._app, self._statuses, self._allow_anyone = app, statuses, allow_anyone
        self._has_effects = has_effects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; an unexpected failure becomes a 500."""
        start = time.perf_counter()
        request_id = _identify(scope)
        if self._allow_anyone:
            logs.tenant.set(LOCAL_TENANT)
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
        headers: list[Header] = scope["headers"]
        error = check_host(headers, local_only=self._allow_anyone) or check_origin(headers)
        if error is None or error.violations[0].field == "host":
            return error
        if scope.get("method", "") not in _SAFE_METHODS or self._has_effects(scope):
            return error
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


def check_host(headers: Iterable[Header], *, local_only: bool) -> FieldError | None:
    """Return the error if Host is malformed, repeated or, with *local_only*, no IP address or localhost.

    The last is against DNS rebinding: a page whose owner points its host name at 127.0.0.1 is of
    "the same origin" as this server.
    """
    hosts = _values(headers, b"host")
    if len(hosts) > 1:
        return FieldError("host", "must be sent once")
    if not hosts or not hosts[0]:
        # HTTP/1.0 without Host: not a browser.
        return None
    match = _HOST.fullmatch(hosts[0])
    if match is None or (match[1] is not None and not _is_ipv6_address(match[1])):
        return FieldError("host", "must be a host name or an IP address, with or without a port")
    if local_only and match[1] is None and not _is_local_name(match[2].lower()):
        return FieldError("host", "must be an IP address or localhost while REELHAUL_AUTH=none")
    return None


def check_origin(headers: Iterable[Header]) -> FieldError | None:
    """Return the error if a page of another origin sent the request; only browsers send the headers for it.

    Browsers let any page open a WebSocket to a loopback address, post simple forms to it, and
    request its URLs as images.
    """
    headers = list(headers)
    origins, relations = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
    if origins:
        authority = origins[0].partition(b"://")[2].lower()
        if len(origins) > 1 or not authority or [authority] != [h.lower() for h in _values(headers, b"host")]:
            return FieldError("origin", "must be this server's own origin")
    if any(relation not in _OWN_SITE for relation in relations):
        return FieldError("sec-fetch-site", "must be same-origin or none")
    return None


def _values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _is_local_name(host: bytes) -> bool:
    return host == b"localhost" or host.endswith(b".localhost") or _is_ip_address(host)


def _is_ipv6_address(host: bytes) -> bool:
    return b":" in host and _is_ip_address(host)


def _is_ip_address(host: bytes) -> bool:
    try:
        ipaddress.ip_address(host.decode())
    except ValueError:
        return False
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
    address = str(client[0]) if client else ""
    logs.begin_request(request_id.decode(), _check_trace_context(scope), address)
    if match := _JOB.search(scope["path"]):
        logs.job.set(f"jobs/{match[1]}")
    return request_id


def _check_trace_context(scope: Scope) -> str:
    """Return the traceparent of a request; remove the trace context if it is invalid or repeated.

    tracestate has no meaning without traceparent. https://www.w3.org/TR/trace-context/
    """
    traces = _values(scope["headers"], b"traceparent")
    if len(traces) == 1 and logs.is_traceparent(trace := traces[0].decode("latin-1")):
        return trace
    if traces or _values(scope["headers"], b"tracestate"):
        scope["headers"] = [
            header for header in scope["headers"] if header[0] not in (b"traceparent", b"tracestate")
        ]
    return ""


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
