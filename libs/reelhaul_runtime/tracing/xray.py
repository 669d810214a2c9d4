"""AWS X-Ray's trace header, ``Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1``.

https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader

Not OpenTelemetry's propagator: it ignores a header without Parent and Sampled, as load balancers send it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "X-Amzn-Trace-Id"

_ROOT = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_PARENT = re.compile(r"(?!0{16})[0-9a-f]{16}")
_SAMPLED = {"1": True, "0": False}
_MAX_FIELDS = 16


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """What a header says."""

    #: 32 hexadecimal digits.
    trace_id: str
    #: 16 hexadecimal digits; empty if the sender has no span, as load balancers have none.
    parent_id: str = ""
    #: None: the receiver decides.
    sampled: bool | None = None


def parse(value: str) -> TraceHeader | None:
    """Return what *value* says; None if it names no trace."""
    fields = dict(field.strip().partition("=")[::2] for field in value.split(";", _MAX_FIELDS)[:_MAX_FIELDS])
    root = _ROOT.fullmatch(fields.get("Root", ""))
    if root is None or not (root[1] + root[2]).strip("0"):
        return None
    parent = fields.get("Parent", "")
    return TraceHeader(
        root[1] + root[2],
        parent if _PARENT.fullmatch(parent) else "",
        _SAMPLED.get(fields.get("Sampled", "")),
    )


def to_header(traceparent: str) -> str:
    """Return the header with the trace context *traceparent*, which is valid."""
    trace_id, parent_id, flags = traceparent[3:35], traceparent[36:52], traceparent[53:]
    return f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={parent_id};Sampled={int(flags, 16) & 1}"
