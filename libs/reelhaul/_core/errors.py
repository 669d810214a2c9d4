"""Errors of the clients, parsed from google.rpc.Status.

CallFailed: RequestInvalid | Unauthenticated | PermissionDenied | NotFound | Conflict | Exhausted |
Unavailable | JobFailed. Those without a class of their own, as of a bug at the server, are CallFailed itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2

from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.remedies import REMEDIES

# Reasons that may pass with time. A site's own failures are missing: repeated requests make them worse.
_TRANSIENT_REASONS = frozenset(
    {
        "SERVICE_UNAVAILABLE",
        "STORAGE_UNAVAILABLE",
        "OVERLOADED",
        "RATE_LIMIT_EXCEEDED",
        "REQUEST_IN_PROGRESS",
    }
)


class CallFailed(Exception):
    """A call that the server rejected, or that did not reach it.

    ``code`` is a google.rpc.Code by name; ``reason`` an ErrorReason by name, or empty if something
    between client and server responded. ``fields`` maps each invalid field of the request to what is
    wrong with it. ``retry_delay`` is set if the server states when to try again. ``transient`` says
    whether the same call may succeed in a moment. ``remedy`` says in a sentence what to do; empty for
    a reason that this version does not know.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        fields: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_delay: timedelta | None = None,
        help_url: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.fields = dict(fields or {})
        self.metadata = dict(metadata or {})
        self.retry_delay = retry_delay
        self.help_url = help_url
        self.transient = reason in _TRANSIENT_REASONS if reason else code == "UNAVAILABLE"
        self.remedy = REMEDIES.get(reason, "")

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"

    @staticmethod
    def from_status(status: status_pb2.Status) -> CallFailed:
        """Return the error that *status* describes, of the class of its code."""
        code = code_name(status.code)
        return _CLASSES.get(code, CallFailed)(code, status.message, **parse_details(status))


class RequestInvalid(CallFailed):
    """A request with wrong fields; the same call fails again."""


class Unauthenticated(CallFailed):
    """A call without a credential, or with one that is not valid."""


class PermissionDenied(CallFailed):
    """A call that this credential may not make, or a URL that the server does not allow."""


class NotFound(CallFailed):
    """A resource that does not exist, or belongs to another tenant."""


class Conflict(CallFailed):
    """A resource that is not in a state that allows the call, or exists already."""


class Exhausted(CallFailed):
    """A rate limit or quota that is used up; ``retry_delay`` says for how long, if that is known."""


class Unavailable(CallFailed):
    """A server that does not answer, or is too busy."""


class JobFailed(CallFailed):
    """A job that did not succeed; ``job`` is its last state, the other attributes are from ``job.error``."""

    def __init__(self, job: Download) -> None:
        error = job.error
        status = Download.Status.Name(job.status) if job.status in Download.Status.values() else "RUNNING"
        message = error.message or f"job {job.job_id} is {status}"
        super().__init__(code_name(error.code), message, reason=error.reason, help_url=error.help)
        self.job = job


_CLASSES: Mapping[str, type[CallFailed]] = {
    "INVALID_ARGUMENT": RequestInvalid,
    "OUT_OF_RANGE": RequestInvalid,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "FAILED_PRECONDITION": Conflict,
    "ALREADY_EXISTS": Conflict,
    "ABORTED": Conflict,
    "RESOURCE_EXHAUSTED": Exhausted,
    "UNAVAILABLE": Unavailable,
}


def parse_details(status: status_pb2.Status) -> dict[str, Any]:
    """Return the keyword arguments of CallFailed that the details of *status* hold."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad_request, help_ = error_details_pb2.BadRequest(), error_details_pb2.Help()
    for detail in status.details:
        for target in (info, retry, bad_request, help_):
            if detail.Is(target.DESCRIPTOR):
                detail.Unpack(target)
    return {
        "reason": info.reason,
        "metadata": info.metadata,
        "fields": {violation.field: violation.description for violation in bad_request.field_violations},
        "retry_delay": retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        "help_url": help_.links[0].url if help_.links else "",
    }


def status_from_json(value: Mapping[str, Any]) -> status_pb2.Status:
    """Convert a google.rpc.Status in JSON; details of unknown types or forms are left out."""
    code = value.get("code")
    status = status_pb2.Status(
        code=code if code in code_pb2.Code.values() else code_pb2.UNKNOWN,
        message=str(value.get("message", "")),
    )
    for detail in value.get("details") or ():
        with suppress(json_format.ParseError, TypeError, AttributeError):
            json_format.ParseDict(detail, status.details.add(), ignore_unknown_fields=True)
    return status


def connection_lost(message: str) -> CallFailed:
    """Return the error of a connection that broke."""
    return Unavailable("UNAVAILABLE", message)


def code_name(code: int) -> str:
    """Return the name of a google.rpc.Code, e.g. NOT_FOUND; UNKNOWN for other numbers."""
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else "UNKNOWN"
