"""Faults: what the transcoder refuses, told with the reasons of this suite."""

from __future__ import annotations

from google.protobuf.message import Message
from google.rpc import error_details_pb2

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime import errors, logs
from reelhaul_transcoding.errors import Fault, Kind

_REASONS: dict[Kind, ErrorReason.ValueType] = {
    Kind.FIELD: ErrorReason.FIELD_INVALID,
    Kind.MEDIA_TYPE: ErrorReason.FIELD_INVALID,
    Kind.SIZE: ErrorReason.FIELD_INVALID,
    # The reason tells a path that leads nowhere from a resource that is not there.
    Kind.ROUTE: ErrorReason.METHOD_UNSUPPORTED,
    Kind.METHOD: ErrorReason.METHOD_UNSUPPORTED,
    Kind.DRAINING: ErrorReason.OVERLOADED,
    Kind.INTERNAL: ErrorReason.INTERNAL_ERROR,
}


def described(fault: Fault) -> list[Message]:
    """ErrorInfo of *fault*: its reason, and what the reason promises."""
    reason = _REASONS[fault.kind]
    metadata = dict.fromkeys(errors.spec_of(reason).metadata_keys, "")
    if reason == ErrorReason.FIELD_INVALID:
        named = fault.violations[0].field if fault.violations else fault.subject
        metadata["field"] = named or "body"
    elif reason == ErrorReason.METHOD_UNSUPPORTED:
        metadata["method"] = fault.subject
    elif reason == ErrorReason.INTERNAL_ERROR:
        metadata["requestId"] = logs.request_id.get()
    return [
        error_details_pb2.ErrorInfo(reason=ErrorReason.Name(reason), domain=errors.DOMAIN, metadata=metadata)
    ]
