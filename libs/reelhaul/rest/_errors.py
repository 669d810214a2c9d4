"""What can go wrong with a call, as google.rpc.Status tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from google.rpc import code_pb2

_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
# Not those of the site's: asking it again at once would make them worse.
_TRANSIENT = {
    "SERVICE_UNAVAILABLE",
    "STORAGE_UNAVAILABLE",
    "OVERLOADED",
    "RATE_LIMIT_EXCEEDED",
    "REQUEST_IN_PROGRESS",
}

_HELP = "type.googleapis.com/google.rpc.Help"


@dataclass(slots=True, eq=False)
class CallFailed(Exception):
    """A call that the server refused or could not be asked.

    ``reason`` is an ErrorReason by name, or empty where something between us answered;
    ``fields`` are the fields of the request that are wrong, with what is wrong with each.
    """

    code: str
    reason: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Seconds to wait before trying again; None where the server does not say.
    retry_seconds: float | None = None
    help_url: str = ""

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.text}"

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed in a moment."""
        return self.reason in _TRANSIENT or (not self.reason and self.code == "UNAVAILABLE")


class SaveFailed(Exception):
    """A file that could not be saved, or is not what the server promised."""


def unreachable(server: str, error: Exception) -> CallFailed:
    """Nobody answers at *server*."""
    return CallFailed("UNAVAILABLE", "SERVICE_UNAVAILABLE", f"{server} does not answer ({_cause(error)})")


def of_response(response: httpx.Response) -> CallFailed:
    """What a response that is no success tells; its body must have been read."""
    try:
        status = response.json()
    except ValueError:
        status = None
    if isinstance(status, dict) and isinstance(status.get("code"), int):
        failure = of_status(status)
    else:
        code = "UNAVAILABLE" if response.status_code in (502, 503, 504) else "UNKNOWN"
        failure = CallFailed(code, "", f"HTTP {response.status_code} from {response.url.host}")
    after = response.headers.get("retry-after", "")
    if failure.retry_seconds is None and after.isdecimal():
        failure.retry_seconds = float(after)
    return failure


def of_status(status: Mapping[str, Any]) -> CallFailed:
    """The failure that a google.rpc.Status as JSON tells of."""
    details = {d.get("@type"): d for d in status.get("details") or () if isinstance(d, dict)}
    info = details.get(_ERROR_INFO, {})
    violations: Sequence[dict[str, str]] = details.get(_BAD_REQUEST, {}).get("fieldViolations", ())
    links: Sequence[dict[str, str]] = details.get(_HELP, {}).get("links", ())
    return CallFailed(
        code=code_name(status.get("code", 2)),
        reason=str(info.get("reason", "")),
        text=str(status.get("message", "")),
        fields={v.get("field", ""): v.get("description", "") for v in violations},
        metadata=info.get("metadata", {}),
        retry_seconds=_seconds(details.get(_RETRY_INFO, {}).get("retryDelay")),
        help_url=links[0].get("url", "") if links else "",
    )


def code_name(code: int) -> str:
    """The canonical name of a google.rpc.Code, e.g. NOT_FOUND."""
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else "UNKNOWN"


def _seconds(duration: object) -> float | None:
    """Seconds of a Duration as proto3 JSON, e.g. "1.5s"."""
    try:
        return float(str(duration).removesuffix("s"))
    except ValueError:
        return None


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
