"""Errors of HTTP calls, parsed from google.rpc.Status in JSON."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx

from reelhaul._core.errors import CallFailed, Unavailable, status_from_json

# Of Retry-After. More digits are more than int() or timedelta take.
_SECONDS = re.compile(r"[0-9]{1,9}")


def unreachable(server: str, error: Exception) -> CallFailed:
    """Return the error of a server that does not respond."""
    cause = str(error) or type(error).__name__
    return Unavailable("UNAVAILABLE", f"{server} does not answer ({cause})", reason="SERVICE_UNAVAILABLE")


def from_response(response: httpx.Response) -> CallFailed:
    """Convert an unsuccessful response, whose body must have been read."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("code"), int):
        failure = CallFailed.from_status(status_from_json(body))
    else:
        text = f"HTTP {response.status_code} from {response.url.host}"
        is_away = response.status_code in (502, 503, 504)
        failure = Unavailable("UNAVAILABLE", text) if is_away else CallFailed("UNKNOWN", text)
    retry_after = response.headers.get("retry-after", "")
    if failure.retry_delay is None and _SECONDS.fullmatch(retry_after):
        failure.retry_delay = timedelta(seconds=int(retry_after))
    return failure
