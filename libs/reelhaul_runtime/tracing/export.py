"""Export of spans by OTLP over gRPC: in batches, by a thread of its own, and never waited for.

OpenTelemetry's SDK is imported by this module only, and this module only if tracing is on: it takes megabytes
in every process.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from reelhaul_runtime.logs import Outage
from reelhaul_runtime.metrics.instruments import SPANS_DROPPED
from reelhaul_runtime.tracing.settings import TracingSettings
from reelhaul_runtime.tracing.spans import RecordedSpan

log = logging.getLogger(__name__)

# Spans that wait for the collector; further ones are dropped. A span takes about a kilobyte.
MAX_QUEUE = 2048
_BATCH, _BATCH_SECONDS = 512, 2.0
# An export that fails is tried again for so long, then its spans are dropped.
_EXPORT_SECONDS = 5.0
# An export that is aborted ends within this time.
_ABORT_SECONDS = 0.5

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {int(kind.value): kind for kind in SpanKind}
_UNSET = Status(StatusCode.UNSET)


class SpanExport:
    """Exports the spans of this process, which runs *service*. Starts a thread: fork no process after it."""

    def __init__(self, settings: TracingSettings, service: str) -> None:
        # OTEL_RESOURCE_ATTRIBUTES adds to these.
        self._resource = Resource.create(
            {
                "service.namespace": "reelhaul",
                "service.name": service,
                "service.version": version("reelhaul"),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        )
        self._scope = InstrumentationScope("reelhaul", version("reelhaul"))
        self._exporter = _ReportingExporter(settings)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MAX_QUEUE,
            schedule_delay_millis=_BATCH_SECONDS * 1000,
            max_export_batch_size=_BATCH,
        )
        self._added, self._refused = 0, 0

    def add(self, span: RecordedSpan) -> None:
        """Export *span* soon; drop it if too many wait already. Never blocks."""
        if self._added - self._exporter.taken >= MAX_QUEUE:
            self._refused += 1
            SPANS_DROPPED.inc()
            return
        self._added += 1
        self._processor.on_end(self.convert(span))

    def close(self, seconds: float) -> None:
        """Export what waits, for *seconds* at most, and stop. Blocks."""
        # The processor's own limit is half a minute.
        flushing = threading.Thread(target=self._processor.shutdown, name="spans", daemon=True)
        flushing.start()
        # A collector that is away is not waited for: the services of a suite stop one after the other.
        flushing.join(0 if self._exporter.is_away else seconds)
        if flushing.is_alive():
            self._exporter.shutdown()
            flushing.join(_ABORT_SECONDS)
        if dropped := self._added + self._refused - self._exporter.exported:
            log.warning("spans were dropped", extra={"spans": dropped})

    def convert(self, span: RecordedSpan) -> ReadableSpan:
        """Return *span*, which has ended, as the SDK's."""
        trace_id = int(span.trace_id, 16)
        parent = _context(trace_id, span.parent_id, remote=True) if span.parent_id else None
        return ReadableSpan(
            span.name,
            context=_context(trace_id, span.span_id),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes | {"error.type": span.error} if span.error else span.attributes,
            links=[Link(_context(int(link[3:35], 16), link[36:52], remote=True)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else _UNSET,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: int, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), remote, _SAMPLED)


class _ReportingExporter(SpanExporter):
    """Exports by OTLP, counts what it was given and what failed, and logs an outage once."""

    def __init__(self, settings: TracingSettings) -> None:
        self._library_log = _LastMessage()
        library = logging.getLogger("opentelemetry")
        library.addHandler(self._library_log)
        # It logs each try.
        library.propagate = False
        self._endpoint = settings.otlp_endpoint
        self._inner = OTLPSpanExporter(
            endpoint=settings.otlp_endpoint, headers=settings.otlp_metadata or None, timeout=_EXPORT_SECONDS
        )
        self._outage = Outage()
        #: Spans that were given to it, and those of them that the collector has.
        self.taken, self.exported = 0, 0

    @property
    def is_away(self) -> bool:
        """Whether the last export failed."""
        return self._outage.logged

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        try:
            result = self._inner.export(spans)
        except Exception as error:
            # It fails to read some answers, such as RetryInfo that is none. The batch is lost.
            result, self._library_log.text = SpanExportResult.FAILURE, repr(error)
        if result is SpanExportResult.SUCCESS:
            if self._outage.logged:
                log.info("spans are exported again", extra={"endpoint": self._endpoint})
            self._outage.end()
            self.exported += len(spans)
            return result
        SPANS_DROPPED.inc(len(spans))
        if (level := self._outage.level()) is not None:
            fields = {"endpoint": self._endpoint, "cause": self._library_log.text}
            log.log(level, "spans cannot be exported and are dropped", extra=fields)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _LastMessage(logging.Handler):
    """Keeps the last message of the library's log, which says why an export fails."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
