"""Errors of gRPC calls."""

from __future__ import annotations

from google.rpc import status_pb2
from grpc import aio

from reelhaul._core.errors import CallFailed

# What grpc itself or a proxy reports for a broken connection.
_BROKEN_CONNECTION = frozenset({"UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN"})


def from_rpc_error(error: aio.AioRpcError) -> CallFailed:
    """Convert *error*, with the details from its trailers if it has any."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
    failure = CallFailed.from_status(status)
    if not failure.reason:
        failure.transient = failure.code in _BROKEN_CONNECTION
    return failure
