"""Metrics of RPCs: their rate, errors and duration on the server, and the outcome of calls to other services.

The labels are those of methods that exist: a call of any other has none. The names are those of
go-grpc-prometheus, so that its dashboards work.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from reelhaul_runtime.metrics import buckets

_METHOD = ["grpc_service", "grpc_method", "grpc_type"]
_STARTED = Counter("grpc_server_started_total", "RPCs that began", _METHOD)
_HANDLED = Counter("grpc_server_handled_total", "RPCs that ended", [*_METHOD, "grpc_code"])
_SECONDS = Histogram("grpc_server_handling_seconds", "duration of unary RPCs", _METHOD, buckets=buckets.CALLS)
_STREAMS = Gauge("grpc_server_streams", "streams that are open", ["grpc_service", "grpc_method"])
_CLIENT_HANDLED = Counter(
    "grpc_client_handled_total", "calls to other services that ended", [*_METHOD, "grpc_code"]
)
#: The label of a method, by whether its request and its response are streams.
METHOD_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class MethodMetrics:
    """The metrics of one method of a server, found once: looking up labels costs more than counting."""

    def __init__(self, path: str, *, request_streaming: bool, response_streaming: bool) -> None:
        service, _, method = path.removeprefix("/").partition("/")
        self._labels = (service, method, METHOD_TYPES[request_streaming, response_streaming])
        self._started = _STARTED.labels(*self._labels)
        is_unary = not request_streaming and not response_streaming
        self._seconds = _SECONDS.labels(*self._labels) if is_unary else None
        self._streams = None if is_unary else _STREAMS.labels(service, method)
        self._handled: dict[str, Counter] = {}

    def start(self) -> None:
        """Count a call that begins."""
        self._started.inc()
        if self._streams is not None:
            self._streams.inc()

    def end(self, code: str, seconds: float) -> None:
        """Count a call that ended with *code* after *seconds*."""
        handled = self._handled.get(code)
        if handled is None:
            handled = self._handled[code] = _HANDLED.labels(*self._labels, code)
        handled.inc()
        if self._seconds is not None:
            self._seconds.observe(seconds)
        if self._streams is not None:
            self._streams.dec()


@cache
def client_handled(path: str, grpc_type: str, code: str) -> Counter:
    """Return the counter of calls of *path*, a method of another service, that ended with *code*."""
    service, _, method = path.removeprefix("/").partition("/")
    return _CLIENT_HANDLED.labels(service, method, grpc_type, code)


def count_client_call(path: str, grpc_type: str, call: Any) -> None:
    """Count *call*, a call of grpc.aio, when it ends."""

    def count(ended: Any) -> None:
        try:
            # The status is there: the coroutine ends at its first step.
            ended.code().send(None)
        except StopIteration as status:
            client_handled(path, grpc_type, status.value.name).inc()

    call.add_done_callback(count)
