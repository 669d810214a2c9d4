"""Middleware: request IDs, origin and host checks, CORS, security headers, the access log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from google.rpc import code_pb2

from reelhaul_gateway import metrics
from reelhaul_gateway.access import RESPONSE_HEADERS, take_websocket_credential
from reelhaul_gateway.final_newline import FinalNewline, prints_responses
from reelhaul_gateway.health import PROBE_PATHS
from reelhaul_gateway.origins import ANY_HOST, AllowedHosts, CorsPolicy, check_host, check_origin
from reelhaul_gateway.request_head import RequestHead, TrustedProxies, read_head
from reelhaul_runtime import logs
from reelhaul_runtime.identity import LOCAL_TENANT
from reelhaul_runtime.tracing.spans import Span
from reelhaul_transcoding.dispatcher import ROUTE
from reelhaul_transcoding.errors import ErrorKind, FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter

log = logging.getLogger(__name__)
access_log = logs.AccessLog("reelhaul_gateway")

# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
_SECURITY_HEADERS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)
# Browsers ignore it over plain HTTP. RFC 6797
_HSTS: Header = (b"strict-transport-security", b"max-age=31536000")
_TLS_SECURITY_HEADERS = (*_SECURITY_HEADERS, _HSTS)
_SECURITY_NAMES = frozenset(name for name, _ in _TLS_SECURITY_HEADERS)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What the conventions of OpenTelemetry call all methods that are not standard.
_OTHER_METHOD = "_OTHER"
_CLIENT_CLOSED_REQUEST, _FIRST_SERVER_ERROR = 499, 500
_WEBSOCKET_FORBIDDEN = 4403
_MAX_ACCEPTED_HOSTS = 256
_MAX_LOGGED_PATH = 512


class RequestMiddleware:
    """The outermost ASGI application.

    With *allow_anyone*, only local Host headers are accepted. *has_effects* says of a GET or HEAD
    whether it does more than read, so that pages of other origins must not send it unless *cors*
    allows them. ``X-Forwarded-…`` headers are believed from *proxies* only. With *accept_xray* the trace
    context may be AWS X-Ray's.
    """

    def __init__(
        self,
        app: Any,
        statuses: StatusWriter,
        *,
        allow_anyone: bool,
        hosts: AllowedHosts,
        cors: CorsPolicy,
        proxies: TrustedProxies,
        has_effects: Callable[[Scope], bool] = lambda _: False,
        accept_xray: bool = False,
    ) -> None:
        self._app, self._statuses, self._allow_anyone = app, statuses, allow_anyone
        self._cors, self._proxies, self._has_effects = cors, proxies, has_effects
        self._accept_xray = accept_xray
        self._hosts, self._forwarded_hosts = hosts, hosts if hosts.has_names else ANY_HOST
        # Clients repeat few hosts; the check of one is dearer than the rest of this class.
        self._accepted_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; an unexpected failure becomes a 500."""
        start = time.perf_counter()
        metrics.TOTALS.active_requests += 1
        head = read_head(scope, self._proxies, accept_xray=self._accept_xray)
        if self._allow_anyone:
            logs.tenant.set(LOCAL_TENANT)
        origins = head.get(b"origin")
        security = _TLS_SECURITY_HEADERS if scope.get("scheme") in ("https", "wss") else _SECURITY_HEADERS
        cors = self._cors.response_headers(origins)
        recorder = RecordingSend(send, security, cors, head.request_id, scope)
        # Browsers send keys and tickets for no page by themselves, unlike cookies: any page may use its own.
        has_credential = scope["type"] == "websocket" and take_websocket_credential(scope)
        # Without authentication what looks like a credential proves nothing.
        is_safe = has_credential and not self._allow_anyone
        try:
            if error := self._check(scope, head, check_origins=not is_safe):
                await self._reject(scope, recorder, error)
            elif origins and self._is_preflight(scope, head):
                await self._answer_preflight(recorder, head)
            else:
                is_printed = prints_responses(head.get(b"user-agent"))
                await self._app(scope, receive, FinalNewline(recorder) if is_printed else recorder)
        except Exception:
            log.exception("unexpected failure")
            if recorder.status or scope["type"] != "http":
                # The response has started: only an aborted connection can show the failure.
                raise
            await self._send_internal_error(recorder)
        finally:
            seconds = time.perf_counter() - start
            recorder.count(seconds)
            _log_access(scope, recorder, seconds)
            if head.span.recorded:
                _end_span(head.span, scope, recorder.status or _CLIENT_CLOSED_REQUEST)

    def _check(self, scope: Scope, head: RequestHead, *, check_origins: bool) -> TranscodingError | None:
        hosts, origins, relations = head.get(b"host"), head.get(b"origin"), head.get(b"sec-fetch-site")
        error = self._check_hosts(hosts, head.forwarded_host)
        if error is not None or not (origins or relations) or not check_origins:
            return error
        if self._cors.allows(origins):
            return error
        error = check_origin(origins, relations, [head.forwarded_host] if head.forwarded_host else hosts)
        if error is None or scope.get("method", "") not in _SAFE_METHODS or self._has_effects(scope):
            return error
        return None

    def _check_hosts(self, hosts: Sequence[bytes], forwarded_host: bytes) -> FieldError | None:
        # The forwarded host does not replace the check: a page that is served by DNS rebinding may set it.
        if forwarded_host and (error := check_host([forwarded_host], self._forwarded_hosts)):
            return error
        if len(hosts) == 1 and hosts[0] in self._accepted_hosts:
            return None
        error = check_host(hosts, self._hosts)
        if error is None and hosts:
            if len(self._accepted_hosts) >= _MAX_ACCEPTED_HOSTS:
                self._accepted_hosts.clear()
            self._accepted_hosts.add(hosts[0])
        return error

    def _is_preflight(self, scope: Scope, head: RequestHead) -> bool:
        return (
            scope.get("method") == "OPTIONS"
            and b"access-control-request-method" in head.values
            and self._cors.allows(head.get(b"origin"))
        )

    async def _answer_preflight(self, send: Send, head: RequestHead) -> None:
        headers = self._cors.preflight_headers(head.get(b"access-control-request-headers"))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _reject(self, scope: Scope, send: Send, error: TranscodingError) -> None:
        if scope["type"] == "websocket":
            # ASGI's send raises it once the client has disconnected.
            with suppress(OSError):
                await send({"type": "websocket.close", "code": _WEBSOCKET_FORBIDDEN, "reason": error.message})
        else:
            await self._statuses.send_error(send, error)

    async def _send_internal_error(self, send: Send) -> None:
        message = "internal error; see the log for this request ID"
        error = TranscodingError(ErrorKind.INTERNAL, code_pb2.INTERNAL, message)
        await self._statuses.send_error(send, error)


class RecordingSend:
    """A ``send`` that adds headers to the response, and records its status, size and reason of failure.

    *security* are added unless the response has them already; *cors*, the request ID, and what *scope* has as
    RESPONSE_HEADERS always.
    """

    __slots__ = (
        "_cors",
        "_counted_bytes",
        "_headers",
        "_request_id",
        "_scope",
        "_security",
        "_send",
        "_stream",
        "bytes_sent",
        "reason",
        "status",
    )

    def __init__(
        self,
        send: Send,
        security: tuple[Header, ...],
        cors: tuple[Header, ...],
        request_id: bytes,
        scope: Scope,
    ) -> None:
        self.status = 0
        self.reason = ""
        self.bytes_sent = self._counted_bytes = 0
        self._headers: list[Header] = []
        # The kind of stream that the response is; empty: it is none.
        self._stream = ""
        self._send, self._request_id = send, request_id
        self._security, self._cors, self._scope = security, cors, scope

    def __call__(self, event: MutableMapping[str, Any]) -> Awaitable[None]:
        kind = event["type"]
        if kind == "http.response.body":
            self.bytes_sent += len(event.get("body", b""))
            if event.get("more_body") and not self._stream:
                self._begin_stream(metrics.stream_kind(dict(self._headers).get(b"content-type", b"")))
            if self._stream:
                # A download may take hours.
                self._count_bytes()
        elif kind == "http.response.start":
            self.status = event["status"]
            self._headers = event["headers"]
            self.reason = event.pop("reason", "")
            event["headers"] = self._add_headers(event["headers"])
        elif kind == "websocket.close":
            self.status = event.get("code", 1000)
        elif kind == "websocket.accept":
            self._begin_stream("websocket")
        elif kind == "websocket.send":
            self.bytes_sent += len(event.get("text") or event.get("bytes") or "")
        return self._send(event)

    def count(self, seconds: float) -> None:
        """Count the request, whose response took *seconds*."""
        metrics.TOTALS.active_requests -= 1
        if self._stream:
            metrics.STREAMS.labels(self._stream).dec()
        self._count_bytes()
        metrics.count_request(
            self._scope.get(ROUTE, ""),
            self._scope.get("method", "GET"),
            self.status or _CLIENT_CLOSED_REQUEST,
            None if self._stream else seconds,
            self.reason,
        )

    def _count_bytes(self) -> None:
        metrics.TOTALS.response_bytes += self.bytes_sent - self._counted_bytes
        self._counted_bytes = self.bytes_sent

    def _begin_stream(self, kind: str) -> None:
        self._stream = kind
        metrics.STREAMS.labels(kind).inc()

    def _add_headers(self, headers: list[Header]) -> list[Header]:
        security = self._security
        names = {name for name, _ in headers}
        if not names.isdisjoint(_SECURITY_NAMES):
            security = tuple(header for header in security if header[0] not in names)
        added = self._scope.get(RESPONSE_HEADERS, ())
        return [*headers, *security, *self._cors, *added, (b"x-request-id", self._request_id)]


def _end_span(span: Span, scope: Scope, status: int) -> None:
    """End *span*, of the request of *scope*, which was answered with *status*.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server
    """
    method, route = scope.get("method", "GET"), scope.get(ROUTE, "")
    if method not in metrics.METHODS:
        method = _OTHER_METHOD
    span.rename(f"{method} {route}" if route else method)
    if route:
        span.set({"http.route": route})
    span.set(
        {
            "http.request.method": method,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
    )
    if job := logs.job.get():
        span.set({"reelhaul.job": job})
    if scope["type"] == "http":
        span.set({"http.response.status_code": status})
        if status >= _FIRST_SERVER_ERROR:
            span.fail(str(status))
    span.end()


def _log_access(scope: Scope, recorder: RecordingSend, seconds: float) -> None:
    """Log one line for the request. Queries are omitted, since they contain URLs and tokens."""
    path: str = scope["path"]
    fields: dict[str, object] = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": path if len(path) <= _MAX_LOGGED_PATH else path[:_MAX_LOGGED_PATH] + "…",
        "status": recorder.status or _CLIENT_CLOSED_REQUEST,
        "bytes": recorder.bytes_sent,
        "milliseconds": round(seconds * 1000, 1),
    }
    if recorder.reason:
        fields["reason"] = recorder.reason
    # Probes arrive every few seconds.
    access_log.log(logging.DEBUG if path in PROBE_PATHS else logging.INFO, "request", fields)
