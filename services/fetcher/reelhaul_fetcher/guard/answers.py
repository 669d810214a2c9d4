"""The guard's own words to a client: each names in X-Reelhaul-Guard why the guard speaks, not the site."""

from __future__ import annotations

#: The field in which the guard says why. It is taken out of what sites answer.
GUARD_FIELD = "x-reelhaul-guard"

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def who_are_you() -> bytes:
    """407: no open pass was shown."""
    return _answer(407, "Proxy Authentication Required", "pass", 'Proxy-Authenticate: Basic realm="reelhaul"')


def refused(why: str) -> bytes:
    """403, or what says it better: the rules do not let this through."""
    if why == "method":
        return _answer(405, "Method not carried by the guard", why, "Allow: GET, HEAD, POST, CONNECT")
    if why == "upgrade":
        return _answer(501, "Upgrades are not carried by the guard", why)
    return _answer(403, f"Refused by the guard: {why}", why)


def malformed(why: str) -> bytes:
    """400: not HTTP as it must be."""
    return _answer(400, f"Malformed request: {why}", why)


def unreachable(why: str, status: int) -> bytes:
    """502, or 504 where time ran out: allowed, but nothing useful came back."""
    return _answer(status, f"Site not reached: {why}", why)


def _answer(status: int, phrase: str, why: str, *fields: str) -> bytes:
    body = f"{phrase}\n"
    lines = [f"HTTP/1.1 {status} {phrase}", f"X-Reelhaul-Guard: {why}", *fields]
    lines += ["Content-Type: text/plain", f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(lines).encode("ascii")
