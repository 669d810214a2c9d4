"""Cookies in Netscape's form: what is read of them, and whether they are of any use still."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

#: What cookies may be called.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

# A browser's whole jar is a fraction of it.
MAX_BYTES = 1024 * 1024

_FIELDS = 7
_FIRST_LINE = "# Netscape HTTP Cookie File"
_HTTP_ONLY = "#HttpOnly_"


@dataclass(frozen=True, slots=True)
class Cookie:
    """What is looked at of one cookie; *expires* None is the end of a browser's session."""

    domain: str
    expires: datetime | None

    def matches_host(self, host: str) -> bool:
        """Whether it would be sent to *host*."""
        domain = self.domain.removeprefix(".")
        return host == domain or (self.domain.startswith(".") and host.endswith(f".{domain}"))


@dataclass(frozen=True, slots=True)
class CookieJar:
    """Cookies kept under a name. Their text is a secret."""

    name: str
    text: str = field(repr=False)
    tenants: tuple[str, ...] = ()

    def is_allowed_for(self, tenant: str) -> bool:
        """Whether *tenant* may use them; no tenant named is all of them."""
        return not self.tenants or tenant in self.tenants

    def is_expired(self, host: str, now: datetime) -> bool:
        """Whether it has cookies for *host*, and none of them counts any more."""
        there = [cookie for cookie in parse(self.text) if cookie.matches_host(host)]
        return bool(there) and all(cookie.expires is not None and cookie.expires <= now for cookie in there)


def with_header(text: str) -> str:
    """*text* as every reader takes it: with the first line that some tools leave out."""
    text = text.removeprefix("\ufeff")
    return text if re.match(r"#( Netscape)? HTTP Cookie File", text) else f"{_FIRST_LINE}\n{text}"


def parse(text: str) -> list[Cookie]:
    """The cookies of *text*. Raises ValueError, which shows no value, where it is no cookie file."""
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    found = [_cookie(number, line) for number, line in lines if _counts(line)]
    if not found:
        raise ValueError("there are no cookies in it")
    return found


def domains(cookies: Iterable[Cookie]) -> list[str]:
    """The domains that *cookies* are for."""
    return sorted({cookie.domain.removeprefix(".") for cookie in cookies})


def cookies_unknown(name: str) -> ReelhaulError:
    """That there are none of this name for this tenant: which of the two, it does not tell."""
    text = f"no cookies called {name!r} are kept for this tenant"
    return ReelhaulError(ErrorReason.COOKIES_UNKNOWN, text, metadata={"cookies": name})


def cookies_expired(name: str, host: str) -> ReelhaulError:
    """That they have expired."""
    text = f"the cookies {name!r} for {host} have expired"
    return ReelhaulError(ErrorReason.COOKIES_EXPIRED, text, metadata={"cookies": name, "host": host})


def cookies_refused(name: str, host: str, why: str) -> ReelhaulError:
    """That the site does not take them."""
    text = f"{host} does not take the cookies {name!r}: {why}"
    return ReelhaulError(ErrorReason.COOKIES_REFUSED, text, metadata={"cookies": name, "host": host})


def _counts(line: str) -> bool:
    return bool(line.strip()) and (not line.startswith("#") or line.startswith(_HTTP_ONLY))


def _cookie(number: int, line: str) -> Cookie:
    fields = line.removeprefix(_HTTP_ONLY).rstrip("\r\n").split("\t")
    if len(fields) != _FIELDS or not fields[0] or not re.fullmatch(r"-?\d{0,15}(\.\d+)?", fields[4]):
        raise ValueError(f"line {number} is no cookie in Netscape's form")
    seconds = int(fields[4].partition(".")[0] or 0)
    # Some browsers write years that no calendar has.
    moment = datetime.fromtimestamp(min(seconds, 32503680000), UTC) if seconds > 0 else None
    return Cookie(fields[0].lower(), moment)
