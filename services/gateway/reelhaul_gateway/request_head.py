"""Request heads: one pass over the headers, the request's identity, and what trusted proxies report."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from reelhaul_gateway.health import PROBE_PATHS
from reelhaul_runtime import logs
from reelhaul_runtime.addresses import Network, unmap
from reelhaul_runtime.tracing import spans, xray
from reelhaul_runtime.tracing.spans import NOT_RECORDED, Span
from reelhaul_transcoding.http.asgi import Header, Scope

# The headers that the gateway itself evaluates.
_CONSUMED = frozenset(
    {
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"traceparent",
        b"tracestate",
        b"x-amzn-trace-id",
    }
)
_EVALUATED = _CONSUMED | {
    b"host",
    b"origin",
    b"sec-fetch-site",
    b"access-control-request-method",
    b"access-control-request-headers",
    b"user-agent",
}
# The id of a job in a path: v1/jobs/{id}:cancel, api/v1/status/{id}.
_JOB = re.compile(r"/(?:jobs|api/v1/[a-z_]{1,32})/([0-9a-fA-F-]{36})(?![0-9a-fA-F-])")
_MIN_JOB_PATH = len("/jobs/") + 36

# Proxies between a client and the gateway. More of X-Forwarded-For is not read.
_MAX_PROXIES = 16
# 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
_ENTRY = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})|([0-9A-Fa-f:.]{2,45}))(?::[0-9]{1,5})?")
_CACHED_PEERS = 1024
# As long as tracestate must be passed on: https://www.w3.org/TR/trace-context/#tracestate-limits
_MAX_STATE = 512


class RequestHead:
    """What the headers of a request say about who sent it, and the identity of the request."""

    __slots__ = ("forwarded_host", "request_id", "span", "values")

    def __init__(
        self, values: dict[bytes, list[bytes]], request_id: bytes, forwarded_host: bytes, span: Span
    ) -> None:
        self.values = values
        self.request_id = request_id
        #: The host that the client named, if a trusted proxy reports it; else empty.
        self.forwarded_host = forwarded_host
        #: The span of the request, which the caller ends.
        self.span = span

    def get(self, name: bytes) -> Sequence[bytes]:
        """Return the values of the header *name*, one of those that the gateway evaluates."""
        return self.values.get(name, ())


class TrustedProxies:
    """The proxies whose ``X-Forwarded-…`` headers are believed; the headers of all others are ignored."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._is_trusted = lru_cache(_CACHED_PEERS)(self._is_in_networks)

    def trusts(self, address: str) -> bool:
        """Return whether *address* is that of a trusted proxy."""
        return bool(self._networks) and self._is_trusted(address)

    def find_client(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """Return the address of the client: the last in X-Forwarded-For that is no trusted proxy's.

        A proxy appends the address of its peer, so only what stands right of an address that is not
        trusted is certain. A malformed entry ends the search at the address before it.
        """
        entries = b",".join(forwarded_for).rsplit(b",", _MAX_PROXIES)[-_MAX_PROXIES:]
        client = peer
        for entry in reversed(entries):
            address = _parse_address(entry)
            if address is None:
                break
            client = address
            if not self.trusts(client):
                break
        return client

    def _is_in_networks(self, address: str) -> bool:
        try:
            parsed = unmap(ipaddress.ip_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def read_head(scope: Scope, proxies: TrustedProxies, *, accept_xray: bool = False) -> RequestHead:
    """Read the head of a request, begin its span, and give *scope* the headers that go on.

    X-Request-Id is the caller's or a new one, X-Forwarded-For the address of the client, and the trace
    context that of the span; an invalid one is removed. With *accept_xray* it may be that of AWS X-Ray.
    Client, scheme and Host are those that a trusted proxy reports.
    """
    values: dict[bytes, list[bytes]] = {}
    headers: list[Header] = []
    for header in scope["headers"]:
        name = header[0]
        if name in _EVALUATED:
            values.setdefault(name, []).append(header[1])
            if name in _CONSUMED:
                continue
        headers.append(header)
    client = scope.get("client")
    address = str(client[0]) if client else ""
    forwarded_host = b""
    if proxies.trusts(address):
        address = proxies.find_client(address, values.get(b"x-forwarded-for", ()))
        forwarded_host = _apply_forwarded(scope, headers, values, address)
    traceparent = _read_traceparent(values)
    caller_id = values[b"x-request-id"][0].decode("latin-1") if b"x-request-id" in values else ""
    request_id = logs.begin_request(caller_id, traceparent, address).encode()
    xray_headers = values.get(b"x-amzn-trace-id", ()) if accept_xray and not traceparent else ()
    span = _begin_span(scope, xray_headers)
    _add_trace_context(values, headers, keeps_state=bool(traceparent))
    headers.append((b"x-request-id", request_id))
    if address:
        headers.append((b"x-forwarded-for", address.encode()))
    scope["headers"] = headers
    path = scope["path"]
    if len(path) >= _MIN_JOB_PATH and (match := _JOB.search(path)):
        logs.job.set(f"jobs/{match[1]}")
    return RequestHead(values, request_id, forwarded_host, span)


def _apply_forwarded(
    scope: Scope, headers: list[Header], values: dict[bytes, list[bytes]], address: str
) -> bytes:
    """Set what a trusted proxy reports: client, scheme and Host; return the host."""
    scope["client"] = (address, 0)
    proto = _last_element(values.get(b"x-forwarded-proto", ())).lower()
    if proto in (b"http", b"https"):
        is_websocket = scope["type"] == "websocket"
        scope["scheme"] = ("ws" if is_websocket else "http") + ("s" if proto == b"https" else "")
    host = _last_element(values.get(b"x-forwarded-host", ()))
    if host:
        headers[:] = [header for header in headers if header[0] != b"host"]
        headers.append((b"host", host))
    return host


def _last_element(values: Sequence[bytes]) -> bytes:
    """Return the last element of a list header: that of the nearest proxy."""
    return values[-1].rpartition(b",")[2].strip() if values else b""


def _read_traceparent(values: dict[bytes, list[bytes]]) -> str:
    """Return the traceparent of the request, as far as its caller may decide it; empty if it is invalid."""
    traces = values.get(b"traceparent")
    if traces is None or len(traces) > 1 or not logs.is_traceparent(trace := traces[0].decode("latin-1")):
        return ""
    return spans.limit_caller(trace)


def _begin_span(scope: Scope, xray_headers: Sequence[bytes]) -> Span:
    """Begin the span of the request, unless it is a probe."""
    if not spans.is_on() or scope["path"] in PROBE_PATHS:
        return NOT_RECORDED
    # Its name is that of the route, which is not known yet.
    name = "HTTP"
    header = xray.parse(xray_headers[0].decode("latin-1")) if len(xray_headers) == 1 else None
    if header is None:
        return spans.start_request(name)
    if not header.parent_id:
        return spans.start_request(name, trace_id=header.trace_id, sampled=header.sampled)
    sampled = spans.decide(header.trace_id) if header.sampled is None else header.sampled
    logs.traceparent.set(spans.limit_caller(f"00-{header.trace_id}-{header.parent_id}-{sampled:02x}"))
    return spans.start_request(name)


def _add_trace_context(values: dict[bytes, list[bytes]], headers: list[Header], *, keeps_state: bool) -> None:
    """Add the trace context of the request to *headers*.

    tracestate has no meaning without the caller's traceparent. One that is too long is dropped as a whole.
    """
    if traceparent := logs.traceparent.get():
        headers.append((b"traceparent", traceparent.encode()))
    states = values.get(b"tracestate", ()) if keeps_state else ()
    if sum(map(len, states)) <= _MAX_STATE:
        headers.extend((b"tracestate", state) for state in states)


def _parse_address(entry: bytes) -> str | None:
    """Return the IP address of an *entry* of X-Forwarded-For; None if it is none. It may have a port."""
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        return None
    try:
        return str(unmap(ipaddress.ip_address((match[1] or match[2] or match[3]).decode())))
    except ValueError:
        return None
