"""Part ``hooks``: what is called for each RPC and request, alone, one call after the other in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from bench.report import Report
from reelhaul_gateway import metrics as gateway_metrics
from reelhaul_runtime import logs
from reelhaul_runtime.rpc.metrics import MethodMetrics, client_handled
from reelhaul_runtime.tracing import rpc as rpc_spans
from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.export import SpanExport
from reelhaul_runtime.tracing.settings import TracingSettings
from reelhaul_runtime.tracing.spans import RecordedSpan

_PATH = "/reelhaul.jobs.v1.JobService/GetJob"
_SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#: The trace context of the call, and whether tracing is on.
_TRACES: Mapping[str, tuple[str, bool]] = {
    "tracing off": ("", False),
    "not sampled": (_SAMPLED[:-1] + "0", True),
    "recorded": (_SAMPLED, True),
}


def measure(report: Report) -> None:
    """Measure the microseconds of each hook: the least of several rounds, because other work only adds."""
    report.print_title("metrics and spans of an RPC and a request: the functions alone")
    rounds, calls = (5, 5_000) if report.short else (15, 20_000)
    hooks: dict[str, Callable[[], object]] = {
        "metrics of an RPC, server": _count_server_call(),
        "metrics of an RPC, client": lambda: client_handled(_PATH, "unary", "OK").inc(),
        "metrics of an HTTP request": lambda: gateway_metrics.count_request("/v1/jobs", "GET", 200, 0.001),
    }
    for name, hook in hooks.items():
        report.add_figure(f"hooks: {name}", "us", [_time(hook, calls) for _ in range(rounds)])
    for name, (traceparent, is_on) in _TRACES.items():
        with _tracing(is_on):
            for side, hook in (("server", _serve), ("client", _call)):
                figures = [_time(partial(hook, traceparent), calls) for _ in range(rounds)]
                report.add_figure(f"hooks: span of an RPC, {side}, {name}", "us", figures)
    report.add_figure("hooks: export of a span", "us", [_time_export() for _ in range(rounds)])


def _count_server_call() -> Callable[[], object]:
    method = MethodMetrics(_PATH, request_streaming=False, response_streaming=False)

    def count() -> None:
        method.start()
        method.end("OK", 0.001)

    return count


def _serve(traceparent: str) -> None:
    logs.traceparent.set(traceparent)
    span = rpc_spans.start_server(_PATH, begins_trace=True)
    if span.recorded:
        rpc_spans.end_server(span, _PATH, 0, "")


def _call(traceparent: str) -> None:
    logs.traceparent.set(traceparent)
    span = rpc_spans.start_client(_PATH)
    if span.recorded:
        rpc_spans.end_client(span, _PATH, 0)


@contextmanager
def _tracing(is_on: bool) -> Iterator[None]:
    spans.configure((lambda _: None) if is_on else None)
    try:
        yield
    finally:
        spans.configure(None)


def _time_export(number: int = 512) -> float:
    """Return the microseconds of a span, in a batch of *number*, from its end to the bytes of the export."""
    # Nothing is sent: the spans are converted and encoded only.
    export = SpanExport(TracingSettings(otlp_endpoint="http://127.0.0.1:9"), "bench")
    recorded = list[RecordedSpan]()
    spans.configure(recorded.append)
    for _ in range(number):
        _serve(_SAMPLED)
    spans.configure(None)
    start = time.thread_time()
    encode_spans([export.convert(span) for span in recorded]).SerializeToString()
    microseconds = (time.thread_time() - start) / number * 1e6
    export.close(0)
    return microseconds


def _time(hook: Callable[[], object], calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        hook()
    return (time.thread_time() - start) / calls * 1e6
