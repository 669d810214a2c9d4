"""What can go wrong: a call, a job, a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from reelhaul.jobs.v1 import job_pb2

# What time alone can change; a site's own trouble is none of ours to hammer.
_TRANSIENT = frozenset(
    {
        "SERVICE_UNAVAILABLE",
        "STORAGE_UNAVAILABLE",
        "OVERLOADED",
        "RATE_LIMIT_EXCEEDED",
        "REQUEST_IN_PROGRESS",
    }
)
# Said by grpc itself or by a proxy between us: a broken connection has several names.
_BROKEN = frozenset({"UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN"})


class CallFailed(Exception):
    """A call that the server refused or could not be asked.

    ``code`` is a google.rpc.Code by name; ``reason`` an ErrorReason by name, or empty where
    something between us answered. ``fields`` are the fields of the request that are wrong, with
    what is wrong with each; ``retry_delay`` is set where the server says when to try again.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        for detail in status.details:
            for target in (info, retry, bad):
                if detail.Is(target.DESCRIPTOR):
                    detail.Unpack(target)
        self.code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
        self.reason: str = info.reason
        self.text: str = status.message
        self.metadata: Mapping[str, str] = dict(info.metadata)
        self.fields: Mapping[str, str] = {wrong.field: wrong.description for wrong in bad.field_violations}
        self.retry_delay: timedelta | None = (
            retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None
        )

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.text}"

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed in a moment."""
        return self.reason in _TRANSIENT if self.reason else self.code in _BROKEN


class JobFailed(CallFailed):
    """A job that did not succeed; ``job`` is its last state, and the rest tells of ``job.error``."""

    def __init__(self, job: job_pb2.Job) -> None:
        super().__init__(job.error)
        self.job = job
        if not self.text:
            self.text = f"{job.name} ended {job_pb2.Job.State.Name(job.state)}"


class SaveFailed(Exception):
    """A file that could not be saved, or is not what the server promised."""


def of_rpc(error: aio.AioRpcError) -> CallFailed:
    """What *error* tells."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return CallFailed(status_pb2.Status.FromString(value))
    return CallFailed(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


def connection_lost(text: str) -> CallFailed:
    """The connection is of no use any more."""
    return CallFailed(status_pb2.Status(code=code_pb2.UNAVAILABLE, message=text))
