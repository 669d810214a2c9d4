"""Spans of RPCs, by the semantic conventions of OpenTelemetry.

https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

from __future__ import annotations

from typing import Any

import grpc

from reelhaul_runtime import logs
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.spans import Attribute, Kind, Span

_OURS = "/reelhaul."
# Probes, and calls that repeat for as long as a job runs.
_NOT_TRACED = frozenset(
    {
        "/reelhaul.system.v1.SystemService/CheckHealth",
        "/reelhaul.system.v1.SystemService/ReportHealth",
        "/reelhaul.work.v1.LeaseService/Renew",
    }
)
# Codes that are failures of a server; the others are the caller's.
_SERVER_FAILURES = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)


def start_server(path: str, *, begins_trace: bool) -> Span:
    """Start and activate the span of a call of *path* that this process serves.

    It is the first of a new trace if the call has no trace context and *begins_trace*.
    """
    if path in _NOT_TRACED or not (begins_trace or logs.traceparent.get()):
        return spans.NOT_RECORDED
    return spans.start_request(path[1:], Kind.SERVER)


def end_server(span: Span, path: str, code: int, error: str) -> None:
    """End *span* of a call of *path* with the status *code*; *error* is its reason."""
    attributes = _attributes(path, code)
    if job := logs.job.get():
        attributes["reelhaul.job"] = job
    span.set(attributes)
    if code in _SERVER_FAILURES:
        span.fail(error)
    span.end()


def start_client(path: str) -> Span:
    """Start the span of a call of *path* of another service, below the current span."""
    if path in _NOT_TRACED or not path.startswith(_OURS):
        return spans.NOT_RECORDED
    return spans.start(path[1:], Kind.CLIENT)


def end_client(span: Span, path: str, code: int) -> None:
    """End *span* of a call of *path* with the status *code*."""
    span.set(_attributes(path, code))
    # What is cancelled is no longer wanted, for example a stream of which enough was read.
    if code and code != grpc.StatusCode.CANCELLED.value[0]:
        span.fail(grpc_code(code))
    span.end()


def end_with_call(span: Span, path: str, rpc: Any) -> None:
    """End *span* of *path* when *rpc*, a call of grpc.aio, ends."""

    def on_done(ended: Any) -> None:
        try:
            # The status is there: the coroutine ends at its first step.
            ended.code().send(None)
        except StopIteration as status:
            end_client(span, path, status.value.value[0])

    rpc.add_done_callback(on_done)


def grpc_code(code: int) -> str:
    """Return the name of a status *code*."""
    return _CODES.get(code, str(code))


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _attributes(path: str, code: int) -> dict[str, Attribute]:
    service, _, method = path[1:].partition("/")
    return {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": code,
    }
