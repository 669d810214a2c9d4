"""The guard's own responses. Header fields and a signed verdict tell a client that not the site responds."""

from __future__ import annotations

#: Why the guard refuses: the request itself is forbidden, trying again is useless.
REFUSAL_FIELD = "X-Reelhaul-Guard"
#: Why an allowed request failed: it may succeed later.
FAILURE_FIELD = "X-Reelhaul-Guard-Failure"
#: The signed verdict, which sites cannot imitate.
VERDICT_FIELD = "X-Reelhaul-Guard-Verdict"

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def proxy_auth_required() -> bytes:
    """Return 407: the request has no credentials of an open session."""
    challenge = 'Proxy-Authenticate: Basic realm="reelhaul"'
    return _encode(407, "Proxy Authentication Required", "", f"{REFUSAL_FIELD}: pass", challenge)


def refused(reason: str, verdict: str) -> bytes:
    """Return 403, 405 or 501: the rules forbid the request. *verdict* is signed."""
    field = f"{REFUSAL_FIELD}: {reason}"
    if reason == "method":
        allow = "Allow: GET, HEAD, POST, CONNECT"
        return _encode(405, "Method not allowed by the guard", verdict, field, allow)
    if reason == "upgrade":
        return _encode(501, "Upgrades are not supported by the guard", verdict, field)
    return _encode(403, f"Refused by the guard: {reason}", verdict, field)


def malformed(reason: str, verdict: str) -> bytes:
    """Return 400: the request is not valid HTTP. *verdict* is empty before the client has authenticated."""
    return _encode(400, f"Malformed request: {reason}", verdict, f"{REFUSAL_FIELD}: {reason}")


def unreachable(reason: str, status: int, verdict: str) -> bytes:
    """Return 502, 503 or 504: the request is allowed but failed."""
    return _encode(status, f"Site not reached: {reason}", verdict, f"{FAILURE_FIELD}: {reason}")


def _encode(status: int, phrase: str, verdict: str, *fields: str) -> bytes:
    body = f"{phrase}\n"
    # Over CONNECT, urllib passes on the status line alone.
    lines = [f"HTTP/1.1 {status} {phrase}; {verdict}" if verdict else f"HTTP/1.1 {status} {phrase}", *fields]
    if verdict:
        lines.append(f"{VERDICT_FIELD}: {verdict}")
    lines += ["Content-Type: text/plain", f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(lines).encode("ascii")
