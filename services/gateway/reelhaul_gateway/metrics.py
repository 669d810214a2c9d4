"""Metrics of the gateway: requests by route, streams, connections. docs/metrics.md says what they mean.

The names are those of OpenTelemetry's semantic conventions where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from google.rpc import code_pb2
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.metrics import buckets, instruments
from reelhaul_runtime.metrics.labels import OTHER

#: The methods that have labels and spans of their own.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS = frozenset({*ErrorReason.keys(), *code_pb2.Code.keys()})
_STREAM_KINDS = {b"text/event-stream": "sse", b"application/x-ndjson": "ndjson", b"application/json": "json"}

_REQUESTS = Counter(
    "http_server_requests_total",
    "requests that were answered",
    ["http_route", "http_request_method", "http_response_status_code"],
)
_SECONDS = Histogram(
    "http_server_request_duration_seconds",
    "time until the answer was written; streams are not in it",
    ["http_route", "http_request_method"],
    buckets=buckets.CALLS,
)
CONNECTIONS = Gauge("http_server_connections", "open connections")
REFUSED_CONNECTIONS = Counter(
    "http_server_refused_connections_total", "connections refused by a limit", ["limit"]
)
STREAMS = Gauge("http_server_streams", "open streams", ["kind"])


class RequestTotals:
    """What each request changes twice or more: numbers, as only the event loop's thread changes them."""

    def __init__(self) -> None:
        self.active_requests = self.response_bytes = 0

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, for the registry."""
        yield GaugeMetricFamily("http_server_active_requests", "requests in progress", self.active_requests)
        yield CounterMetricFamily("http_server_response_bytes", "bytes of bodies sent", self.response_bytes)


TOTALS = RequestTotals()
REGISTRY.register(TOTALS)


def count_request(route: str, method: str, status: int, seconds: float | None, reason: str = "") -> None:
    """Count a request that was answered with *status*, after *seconds*; None: its answer was a stream.

    *route* is the template of its route, empty if it has none; *reason* that of an error.
    """
    method = method if method in METHODS else OTHER
    _requests(route or OTHER, method, status).inc()
    if seconds is not None:
        _durations(route or OTHER, method).observe(seconds)
    if reason in _REASONS:
        instruments.ERRORS.labels(reason).inc()


def stream_kind(content_type: bytes) -> str:
    """Return the kind of a stream: that of its framing, or that it is a file."""
    return _STREAM_KINDS.get(content_type, "file")


def cache_lookups(hits: int, misses: int) -> CounterMetricFamily:
    """Return the look-ups in the cache of encoded messages."""
    family = CounterMetricFamily(
        "reelhaul_gateway_cache", "look-ups in the caches of encoded messages", labels=["cache", "result"]
    )
    family.add_metric(["messages", "hit"], hits)
    family.add_metric(["messages", "miss"], misses)
    return family


# Looking up labels costs more than counting. Routes, methods and statuses are few.
@cache
def _requests(route: str, method: str, status: int) -> Counter:
    return _REQUESTS.labels(route, method, status)


@cache
def _durations(route: str, method: str) -> Histogram:
    return _SECONDS.labels(route, method)
