"""The guard's own responses. A header field tells a client that the guard, and not the site, responds."""

from __future__ import annotations

#: Why the guard refuses: the request itself is forbidden, trying again is useless.
REFUSAL_FIELD = "X-Reelhaul-Guard"
#: Why an allowed request failed: it may succeed later.
FAILURE_FIELD = "X-Reelhaul-Guard-Failure"

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def proxy_auth_required() -> bytes:
    """Return 407: the request has no credentials of an open session."""
    challenge = 'Proxy-Authenticate: Basic realm="reelhaul"'
    return _encode(407, "Proxy Authentication Required", f"{REFUSAL_FIELD}: pass", challenge)


def refused(reason: str) -> bytes:
    """Return 403, 405 or 501: the rules forbid the request."""
    field = f"{REFUSAL_FIELD}: {reason}"
    if reason == "method":
        return _encode(405, "Method not allowed by the guard", field, "Allow: GET, HEAD, POST, CONNECT")
    if reason == "upgrade":
        return _encode(501, "Upgrades are not supported by the guard", field)
    return _encode(403, f"Refused by the guard: {reason}", field)


def malformed(reason: str) -> bytes:
    """Return 400: the request is not valid HTTP."""
    return _encode(400, f"Malformed request: {reason}", f"{REFUSAL_FIELD}: {reason}")


def unreachable(reason: str, status: int) -> bytes:
    """Return 502, 503 or 504: the request is allowed but failed."""
    return _encode(status, f"Site not reached: {reason}", f"{FAILURE_FIELD}: {reason}")


def _encode(status: int, phrase: str, *fields: str) -> bytes:
    body = f"{phrase}\n"
    lines = [f"HTTP/1.1 {status} {phrase}", *fields, "Content-Type: text/plain"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(lines).encode("ascii")
