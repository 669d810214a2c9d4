"""An OTLP receiver for tests: a gRPC server that keeps the spans which it is sent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_KINDS = {
    trace_pb2.Span.SPAN_KIND_INTERNAL: "INTERNAL",
    trace_pb2.Span.SPAN_KIND_SERVER: "SERVER",
    trace_pb2.Span.SPAN_KIND_CLIENT: "CLIENT",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "PRODUCER",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "CONSUMER",
}


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids in hexadecimal, times in nanoseconds since 1970."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    #: Empty for the first span of a trace.
    parent_id: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    #: Ids of the spans that it links to.
    links: Sequence[str]
    #: Empty if it did not fail.
    error: str


@dataclass
class Receiver:
    """What was received so far."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)
    #: Metadata of the exports.
    metadata: list[dict[str, str]] = field(default_factory=list)
    resources: list[Mapping[str, Any]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, trace_id: str, *names: str, seconds: float = 20) -> list[Span]:
        """Wait until the trace has spans with all *names*, of a repeated one as many; return its spans.

        Raises AssertionError if one is missing after *seconds*.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                own = [span for span in self.spans if span.trace_id == trace_id]
                missing = Counter(names) - Counter(span.name for span in own)
                if not missing:
                    return own
                left = end - time.monotonic()
                assert left > 0, f"no span {list(missing)}; there are {sorted(span.name for span in own)}"
                self._changed.wait(left)

    def add(self, request: trace_service_pb2.ExportTraceServiceRequest, metadata: dict[str, str]) -> None:
        """Keep the spans of *request*."""
        with self._changed:
            self.metadata.append(metadata)
            for of_resource in request.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                self.resources.append(resource)
                for scope in of_resource.scope_spans:
                    self.spans += [_span(each, resource["service.name"]) for each in scope.spans]
            self._changed.notify_all()


class _TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        self._receiver.add(request, dict(context.invocation_metadata()))
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def running_receiver(address: str = "127.0.0.1:0") -> Iterator[Receiver]:
    """Run a receiver at *address* until the block ends."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port(address)
    receiver = Receiver(f"http://127.0.0.1:{port}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_TraceService(receiver), server)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def format_tree(spans: Sequence[Span]) -> list[str]:
    """Return the spans of one trace as a tree, a line for each: ``service KIND name``, children indented.

    Children are in the order in which they started. A span whose parent is missing is a root.
    """
    ids = {span.span_id for span in spans}
    lines: list[str] = []

    def add(parent: str, depth: int) -> None:
        children = [
            span for span in spans if (span.parent_id == parent if parent else span.parent_id not in ids)
        ]
        for span in sorted(children, key=lambda child: child.start):
            lines.append(f"{'  ' * depth}{span.service} {span.kind} {span.name}")
            add(span.span_id, depth + 1)

    add("", 0)
    return lines


def _span(span: trace_pb2.Span, service: str) -> Span:
    return Span(
        service,
        span.name,
        _KINDS[span.kind],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        [link.span_id.hex() for link in span.links],
        span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else "",
    )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")
