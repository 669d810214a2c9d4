"""A service as in production, of which parts are left out: ``python -m bench.telemetry.service serve NAME``.

The variable ``BENCH_WITHOUT`` names what is: ``metrics`` (nothing is counted or timed), ``tracing`` (no span
is asked for; also what asks for spans while tracing is off). What is left is the call of an empty function.
"""

from __future__ import annotations

import os
from typing import Any

import prometheus_client

from reelhaul_runtime import __main__ as runtime
from reelhaul_runtime.rpc import metrics as rpc_metrics
from reelhaul_runtime.tracing import rpc as rpc_spans
from reelhaul_runtime.tracing import spans

#: Environment variable with what is left out, separated by spaces.
WITHOUT_VARIABLE = "BENCH_WITHOUT"


def leave_out_metrics() -> None:
    """Let all metrics count nothing."""
    prometheus_client.Counter.inc = _do_nothing  # type: ignore[method-assign]
    prometheus_client.Histogram.observe = _do_nothing  # type: ignore[method-assign]
    for name in ("inc", "dec", "set"):
        setattr(prometheus_client.Gauge, name, _do_nothing)
    for each in (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram):
        each.labels = _return_self  # type: ignore[method-assign, assignment]
    for name in ("start", "end"):
        setattr(rpc_metrics.MethodMetrics, name, _do_nothing)
    rpc_metrics.count_client_call = _do_nothing


def leave_out_tracing() -> None:
    """Let nothing ask whether there is a span to record."""
    spans.start = spans.start_request = _return_no_span
    rpc_spans.start_server = rpc_spans.start_client = _return_no_span


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _return_self(metric: Any, *_: Any, **__: Any) -> Any:
    return metric


def _return_no_span(*_: Any, **__: Any) -> spans.Span:
    return spans.NOT_RECORDED


if __name__ == "__main__":
    # Before the services are imported: they take the functions from these modules.
    without = os.environ.get(WITHOUT_VARIABLE, "").split()
    if "metrics" in without:
        leave_out_metrics()
    if "tracing" in without:
        leave_out_tracing()
    runtime.main(prog_name="python -m bench.telemetry.service")
