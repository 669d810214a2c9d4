"""Status: every failure is a google.rpc.Status in JSON, under the HTTP status of its code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.errors import Fault

#: HTTP status by google.rpc.Code, as its comments say; all else is 500.
_HTTP: dict[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
}

#: What a host application tells of a fault besides; these details come first.
Describe = Callable[[Fault], Sequence[Message]]


def http_status_of(code: int) -> int:
    """The HTTP status of a google.rpc.Code; 500 for one that is not known."""
    return _HTTP.get(code, 500)


def status_of(fault: Fault, describe: Describe | None = None) -> status_pb2.Status:
    """*fault* as google.rpc.Status, with BadRequest where fields are at fault."""
    status = status_pb2.Status(code=fault.code, message=fault.text)
    for detail in describe(fault) if describe else ():
        status.details.add().Pack(detail)
    if fault.violations:
        bad = error_details_pb2.BadRequest()
        for violation in fault.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(bad)
    return status


class StatusWriter:
    """Writes google.rpc.Status as JSON, details that cannot be resolved included."""

    def __init__(self, encoder: Encoder) -> None:
        self._write = encoder.of(status_pb2.Status.DESCRIPTOR)

    def value(self, status: status_pb2.Status) -> dict[str, object]:
        """``{code, message, details}``, all three always there."""
        return {"code": status.code, "message": status.message, "details": [], **self._write(status)}

    def json(self, status: status_pb2.Status) -> bytes:
        """The same as JSON text."""
        return orjson.dumps(self.value(status))


def retry_after(status: status_pb2.Status) -> int | None:
    """Whole seconds that a RetryInfo among the details asks to wait; None without one."""
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            info = error_details_pb2.RetryInfo.FromString(detail.value)
            return max(0, int(info.retry_delay.seconds) + (1 if info.retry_delay.nanos > 0 else 0))
    return None
