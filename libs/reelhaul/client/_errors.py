"""Errors of gRPC calls and of jobs."""

from __future__ import annotations

from google.rpc import status_pb2
from grpc import aio

from reelhaul._core.errors import CallFailed, code_name, parse_details
from reelhaul.jobs.v1 import job_pb2

# What grpc itself or a proxy reports for a broken connection.
_BROKEN_CONNECTION = frozenset({"UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN"})


class JobFailed(CallFailed):
    """A job that did not succeed; ``job`` is its last state, the other attributes are from ``job.error``."""

    def __init__(self, job: job_pb2.Job) -> None:
        message = job.error.message or f"{job.name} ended {job_pb2.Job.State.Name(job.state)}"
        super().__init__(code_name(job.error.code), message, **parse_details(job.error))
        self.job = job


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
