"""Errors of the clients, parsed from google.rpc.Status."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2

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
    whether the same call may succeed in a moment.
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

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Self:
        """Return the error that *status* describes."""
        return cls(code_name(status.code), status.message, **parse_details(status))


class SaveFailed(Exception):
    """A file that could not be saved, or whose content is not what the server announced."""


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
    return CallFailed("UNAVAILABLE", message)


def code_name(code: int) -> str:
    """Return the name of a google.rpc.Code, e.g. NOT_FOUND; UNKNOWN for other numbers."""
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else "UNKNOWN"
