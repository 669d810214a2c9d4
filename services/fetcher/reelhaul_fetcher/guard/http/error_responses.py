"""The guard's own words to a client: one field names why the guard speaks, and not the site."""

from __future__ import annotations

#: Why the guard refuses: the request itself is at fault, and asking again is useless.
REFUSAL_FIELD = "X-Reelhaul-Guard"
#: Why an allowed request came to nothing: another time it may go well.
FAILURE_FIELD = "X-Reelhaul-Guard-Failure"

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def proxy_auth_required() -> bytes:
    """407: no open pass was shown."""
    challenge = 'Proxy-Authenticate: Basic realm="reelhaul"'
    return _answer(407, "Proxy Authentication Required", f"{REFUSAL_FIELD}: pass", challenge)


def refused(why: str) -> bytes:
    """403, or what says it better: the rules do not let this through."""
    field = f"{REFUSAL_FIELD}: {why}"
    if why == "method":
        return _answer(405, "Method not carried by the guard", field, "Allow: GET, HEAD, POST, CONNECT")
    if why == "upgrade":
        return _answer(501, "Upgrades are not carried by the guard", field)
    return _answer(403, f"Refused by the guard: {why}", field)


def malformed(why: str) -> bytes:
    """400: not HTTP as it must be."""
    return _answer(400, f"Malformed request: {why}", f"{REFUSAL_FIELD}: {why}")


def failed(why: str, status: int) -> bytes:
    """502, 503 or 504: allowed, but nothing useful came back."""
    return _answer(status, f"Site not reached: {why}", f"{FAILURE_FIELD}: {why}")


def _answer(status: int, phrase: str, *fields: str) -> bytes:
    body = f"{phrase}\n"
    lines = [f"HTTP/1.1 {status} {phrase}", *fields, "Content-Type: text/plain"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(lines).encode("ascii")
