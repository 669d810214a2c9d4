"""Spans: operations of a trace, as OpenTelemetry defines them. While tracing is off they are not recorded.

The current span's trace context is ``logs.traceparent``: calls of other services, work items and the lines of
the log take it from there. A trace that is not sampled has one too, that of its first span. Sampling is as by
OpenTelemetry's ``ParentBased(TraceIdRatioBased(ratio))``: whoever starts a trace decides, all others follow.
https://opentelemetry.io/docs/specs/otel/trace/sdk/#traceidratiobased

Spans are recorded here, and given to OpenTelemetry's SDK (``export``) when they end: it is not imported while
tracing is off, a span that is not sampled costs less than a microsecond, and the span of an attempt has an id
that several processes know (`attempt_id`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from hashlib import sha256
from typing import Self

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import logs
from reelhaul_runtime.errors import ReelhaulError

Attribute = str | int | float | bool | Sequence[str]

_TRACEPARENT_LENGTH = 55
_ODD_DIGITS = frozenset("13579bdf")
# A span of a request costs 40 µs, and a job's trace has 25: so many a second load no process.
_MAX_CALLERS_TRACES_PER_SECOND = 20
# TraceIdRatioBased compares the lower 64 bits of the trace id.
_RATIO_BITS = 64


class Kind(IntEnum):
    """Relation of a span to its parent, numbered as OpenTelemetry's ``SpanKind``."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span:
    """A span that is not recorded: tracing is off, or its trace is not sampled. Its methods do nothing."""

    __slots__ = ()

    #: Whether it is recorded; compute no attributes if it is not.
    recorded: bool = False

    @property
    def traceparent(self) -> str:
        """Its trace context, a traceparent (https://www.w3.org/TR/trace-context/); empty if it has none."""
        return ""

    def rename(self, name: str) -> None:
        """Set the name."""

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Add *attributes*: names of few values, no URL, title, secret or address."""

    def fail(self, error: str) -> None:
        """Mark it as failed with *error*, a reason or the name of an exception: texts may have URLs."""

    def activate(self) -> None:
        """Make it the current span of this task."""

    def end(self, time_ns: int = 0) -> None:
        """End it at *time_ns* (nanoseconds since 1970), 0: now. A span that has ended ends no second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        return None


NOT_RECORDED = Span()


class RecordedSpan(Span):
    """A span that is exported when it ends. As a context manager it is the current span of the block."""

    __slots__ = (
        "_outer",
        "attributes",
        "end_ns",
        "error",
        "kind",
        "links",
        "name",
        "parent_id",
        "span_id",
        "start_ns",
        "trace_id",
    )
    recorded = True

    def __init__(
        self,
        name: str,
        kind: Kind,
        trace_id: str,
        parent_id: str,
        *,
        span_id: str = "",
        start_ns: int = 0,
        links: Sequence[str] = (),
    ) -> None:
        self.name, self.kind = name, kind
        #: In hexadecimal; ``parent_id`` is empty for the first span of a trace.
        self.trace_id, self.parent_id, self.span_id = trace_id, parent_id, span_id or _random_id(64)
        self.start_ns, self.end_ns = start_ns or time.time_ns(), 0
        self.attributes: dict[str, Attribute] = {}
        #: Trace contexts of spans that it is related to.
        self.links = links
        #: Why it failed; empty if it did not.
        self.error = ""
        self._outer = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"

    def rename(self, name: str) -> None:
        self.name = name

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        self.attributes.update(attributes)

    def fail(self, error: str) -> None:
        self.error = error

    def activate(self) -> None:
        logs.traceparent.set(self.traceparent)

    def end(self, time_ns: int = 0) -> None:
        if not self.end_ns:
            self.end_ns = time_ns or time.time_ns()
            if _export is not None:
                _export(self)

    def __enter__(self) -> Self:
        self._outer = logs.traceparent.get()
        self.activate()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Not by a token: the block of an asynchronous generator may end in another context.
        logs.traceparent.set(self._outer)
        if error is not None and not self.error:
            self.fail(name_error(error))
        self.end()


# What exports spans; None while tracing is off.
_export: Callable[[RecordedSpan], None] | None = None
# Traces are sampled whose id, in its lower 64 bits, is below this.
_sample_below = 0
_clock = time.monotonic
# The second of this clock of the last caller's trace, and how many traces callers began in it.
_callers_second, _callers_traces = 0, 0


def configure(export: Callable[[RecordedSpan], None] | None, ratio: float = 1.0) -> None:
    """Record spans, of the share *ratio* of new traces, and give them to *export*; None: record none."""
    global _export, _sample_below
    _export, _sample_below = export, round(ratio * (1 << _RATIO_BITS))


def is_on() -> bool:
    """Return whether spans are recorded."""
    return _export is not None


def is_sampled(traceparent: str) -> bool:
    """Return whether spans of the trace of *traceparent* are recorded; not if it is empty."""
    return len(traceparent) == _TRACEPARENT_LENGTH and traceparent[-1] in _ODD_DIGITS


def start(
    name: str,
    kind: Kind = Kind.INTERNAL,
    *,
    parent: str = "",
    span_id: str = "",
    start_ns: int = 0,
    links: Sequence[str] = (),
) -> Span:
    """Start a span below *parent*, a trace context, or below the current span; without either there is none.

    Background work, such as that of loops, has no trace. *start_ns* is in nanoseconds
    since 1970, 0: now.
    """
    if _export is None:
        return NOT_RECORDED
    parent = parent or logs.traceparent.get()
    if not is_sampled(parent):
        return NOT_RECORDED
    return RecordedSpan(
        name, kind, parent[3:35], parent[36:52], span_id=span_id, start_ns=start_ns, links=links
    )


def start_request(
    name: str, kind: Kind = Kind.SERVER, *, trace_id: str = "", sampled: bool | None = None
) -> Span:
    """Start and activate the span of a request, below its trace context (of ``logs.begin_request``).

    Without one a trace begins, with *trace_id* (32 hexadecimal digits) or a new id; *sampled* says whether it
    is recorded, which callers may ask for (see `limit_caller`); None: the ratio decides.
    """
    if _export is None:
        return NOT_RECORDED
    span: Span
    if logs.traceparent.get():
        span = start(name, kind)
    else:
        trace_id = trace_id or _random_id(128)
        if not (decide(trace_id) if sampled is None else sampled and _admit_caller(trace_id)):
            logs.traceparent.set(f"00-{trace_id}-{_random_id(64)}-00")
            return NOT_RECORDED
        span = RecordedSpan(name, kind, trace_id, "")
    span.activate()
    return span


@contextmanager
def trace(name: str) -> Iterator[Span]:
    """Begin a trace of work without a request; its first span, with *name*, is the block's."""
    with continuing(""), start_request(name, Kind.INTERNAL) as span:
        yield span


def decide(trace_id: str) -> bool:
    """Return whether a new trace with *trace_id* is sampled. All processes with one ratio decide alike."""
    return int(trace_id[16:], 16) < _sample_below


def limit_caller(traceparent: str) -> str:
    """Return *traceparent*, of a caller outside of the suite, unsampled if callers have too many recorded.

    Otherwise anybody, also without a key, could have all requests recorded, whatever the ratio is.
    """
    if _export is None or not is_sampled(traceparent) or _admit_caller(traceparent[3:35]):
        return traceparent
    return f"{traceparent[:53]}00"


def _admit_caller(trace_id: str) -> bool:
    """Return whether a trace that a caller wants to be recorded is: by the ratio, or within the limit."""
    global _callers_second, _callers_traces
    if decide(trace_id):
        return True
    if (second := int(_clock())) != _callers_second:
        _callers_second, _callers_traces = second, 0
    _callers_traces += 1
    return _callers_traces <= _MAX_CALLERS_TRACES_PER_SECOND


def attempt_id(job: str, epoch: int) -> str:
    """Return the id of the span of the attempt of *job* under the lease *epoch*.

    It is known without being stored: the worker's spans are below it, and the next attempt links to it, even
    if the worker was killed.
    """
    return sha256(f"{job}/{epoch}".encode()).hexdigest()[:16]


def attempt_context(traceparent: str, job: str, epoch: int) -> str:
    """Return the trace context of the attempt of *job* under *epoch*; *traceparent* is that of the job.

    That is returned if no spans of it are recorded.
    """
    if _export is None or not is_sampled(traceparent):
        return traceparent
    return f"{traceparent[:36]}{attempt_id(job, epoch)}{traceparent[52:]}"


def name_error(error: BaseException) -> str:
    """Return the attribute ``error.type`` of *error*: its reason, or its class."""
    return ErrorReason.Name(error.reason) if isinstance(error, ReelhaulError) else type(error).__name__


@contextmanager
def continuing(traceparent: str) -> Iterator[None]:
    """Make *traceparent* the trace context of the block; it has none if that is not valid."""
    outer = logs.traceparent.get()
    logs.traceparent.set(traceparent if logs.is_traceparent(traceparent) else "")
    try:
        yield
    finally:
        logs.traceparent.set(outer)


def _random_id(bits: int) -> str:
    # Zero is invalid. Not secret: ids need to be different only.
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
