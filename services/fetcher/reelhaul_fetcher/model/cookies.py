"""Cookies in the Netscape format: parsing, expiry, and the errors about named cookies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

#: Valid names of stored cookies.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

# All cookies of a browser are a fraction of it.
MAX_BYTES = 1024 * 1024

_FIELDS = 7
_HEADER = "# Netscape HTTP Cookie File"
_HTTP_ONLY = "#HttpOnly_"
# The year 3000: some browsers write later years than datetime can hold.
_MAX_TIMESTAMP = 32503680000
# Protections against robots set cookies for minutes or hours that scripts cannot read either.
_MIN_LOGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cookie:
    """Domain and expiry of one cookie; *expires* is None for a session cookie."""

    domain: str
    expires: datetime | None
    #: Whether no script can read it, as is usual for those of a login.
    http_only: bool = False

    def matches_host(self, host: str) -> bool:
        """Return whether it would be sent to *host*."""
        domain = self.domain.removeprefix(".")
        return host == domain or (self.domain.startswith(".") and host.endswith(f".{domain}"))


@dataclass(frozen=True, slots=True)
class CookieJar:
    """Cookies stored under a name. Their text is a secret."""

    name: str
    text: str = field(repr=False)
    tenants: tuple[str, ...] = ()

    def is_allowed_for(self, tenant: str) -> bool:
        """Return whether *tenant* may use them; without tenants, every tenant may."""
        return not self.tenants or tenant in self.tenants

    def is_expired(self, host: str, now: datetime) -> bool:
        """Return whether there are cookies for *host* and all of them have expired."""
        matching = [cookie for cookie in parse(self.text) if cookie.matches_host(host)]
        return bool(matching) and all(
            cookie.expires is not None and cookie.expires <= now for cookie in matching
        )


def with_header(text: str) -> str:
    """Return *text* with the header line, which some tools omit and yt-dlp requires."""
    text = text.removeprefix("\ufeff")
    return text if re.match(r"#( Netscape)? HTTP Cookie File", text) else f"{_HEADER}\n{text}"


def parse(text: str) -> list[Cookie]:
    """Return the cookies of *text*. Raises ValueError, which shows no cookie value."""
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    cookies = [_parse_line(number, line) for number, line in lines if _is_cookie_line(line)]
    if not cookies:
        raise ValueError("it contains no cookies")
    return cookies


def domains(cookies: Iterable[Cookie]) -> list[str]:
    """Return the domains of *cookies*, sorted."""
    return sorted({cookie.domain.removeprefix(".") for cookie in cookies})


def login_expiry(cookies: Iterable[Cookie], added: datetime) -> datetime | None:
    """Return when the first login among *cookies*, exported at *added*, expires; None if none does.

    Logins last longer than a day, and scripts cannot read their cookies. Without any such cookie, e.g. from
    a tool that does not export which these are, it is when the last cookie expires.
    """
    expiring = [(cookie.expires, cookie.http_only) for cookie in cookies if cookie.expires is not None]
    logins = [expires for expires, http_only in expiring if http_only and expires - added > _MIN_LOGIN]
    return min(logins) if logins else max((expires for expires, _ in expiring), default=None)


def cookies_unknown(name: str) -> ReelhaulError:
    """Return COOKIES_UNKNOWN; it does not tell whether the name or the tenant's permission is missing."""
    text = f"there are no cookies named {name!r} for this tenant"
    return ReelhaulError(ErrorReason.COOKIES_UNKNOWN, text, metadata={"cookies": name})


def cookies_expired(name: str, host: str) -> ReelhaulError:
    """Return COOKIES_EXPIRED."""
    text = f"the cookies {name!r} for {host} have expired"
    return ReelhaulError(ErrorReason.COOKIES_EXPIRED, text, metadata={"cookies": name, "host": host})


def cookies_refused(name: str, host: str, cause: str) -> ReelhaulError:
    """Return COOKIES_REFUSED; *cause* is what the site answered."""
    text = f"{host} does not accept the cookies {name!r}: {cause}"
    return ReelhaulError(ErrorReason.COOKIES_REFUSED, text, metadata={"cookies": name, "host": host})


def _is_cookie_line(line: str) -> bool:
    return bool(line.strip()) and (not line.startswith("#") or line.startswith(_HTTP_ONLY))


def _parse_line(number: int, line: str) -> Cookie:
    fields = line.removeprefix(_HTTP_ONLY).rstrip("\r\n").split("\t")
    if len(fields) != _FIELDS or not fields[0] or not re.fullmatch(r"-?\d{0,15}(\.\d+)?", fields[4]):
        raise ValueError(f"line {number} is not a cookie in the Netscape format")
    timestamp = int(fields[4].partition(".")[0] or 0)
    expires = datetime.fromtimestamp(min(timestamp, _MAX_TIMESTAMP), UTC) if timestamp > 0 else None
    return Cookie(fields[0].lower(), expires, line.startswith(_HTTP_ONLY))
