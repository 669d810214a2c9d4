"""URLs of callers: checked by their text alone; what they resolve to, the guard checks."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from urllib.parse import SplitResult, urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.addresses import Address, Refused, Rules, parse_host, unmap
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.validation.violations import FieldViolations

MAX_LENGTH = 2048

# URL parsers disagree on these (a backslash is a slash to some), so they are not allowed at all.
_FORBIDDEN_CHARACTERS = re.compile(r"[\x00-\x20\x7f-\x9f\\\u2028\u2029]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# If the last label is a number, the host is an IPv4 address, in one of its many notations.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Nearly every URL has this form, which all parsers read alike.
_PLAIN_URL = re.compile(r"https?://([A-Za-z0-9._-]+)(?:[/?#]|\Z)")
# RFC 6761, section 6.3: these names are loopback addresses everywhere.
_LOCALHOST = re.compile(r"(?:.*\.)?localhost")
_PORTS = {"http": 80, "https": 443}
_USER_INFO = re.compile(r"^([^:/?#]*:)?(//)?[^/?#]*@")
_MAX_REDACTED = 256


def check_url(url: str, field: str, violations: FieldViolations, rules: Rules | None = None) -> None:
    """Add a violation if *url* is URL_INVALID, or URL_FORBIDDEN because the guard certainly refuses its host.

    A literal address is checked by *rules*, those of the guard. None: only addresses that no setting can
    allow are forbidden.
    """
    if not url:
        violations.add(field, "is required")
        return
    if _is_plain_and_allowed(url):
        return
    parts, problem = _split(url)
    if parts is None:
        violations.add(field, problem, reason=ErrorReason.URL_INVALID, metadata={"url": redact(url)})
    elif _is_forbidden(host := _host(parts), parts.port or _PORTS[parts.scheme], rules):
        violations.add(
            field,
            f"downloads from {host} are not allowed",
            reason=ErrorReason.URL_FORBIDDEN,
            metadata={"host": host},
        )


def redact(url: str) -> str:
    """Return *url* for messages and logs: without secrets, at most 256 printable characters."""
    # It may be no URL at all: whatever follows the first question mark is a query.
    bare = redact_urls(_USER_INFO.sub(r"\1\2", url[: MAX_LENGTH * 2])).partition("?")[0]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in bare[:_MAX_REDACTED])


def _is_plain_and_allowed(url: str) -> bool:
    """Return whether *url* is valid without parsing it: a fast path."""
    if len(url) > MAX_LENGTH or (plain := _PLAIN_URL.match(url)) is None or _FORBIDDEN_CHARACTERS.search(url):
        return False
    return _is_allowed(plain[1].lower().removesuffix("."))


@lru_cache(maxsize=1024)
def _is_allowed(host: str) -> bool:
    """Return whether *host* is a name that no rules forbid."""
    return _is_host(host) and _literal_address(host) is None and not _is_forbidden(host, 80, None)


def _split(url: str) -> tuple[SplitResult | None, str]:
    """Return the parts of *url*, or None and what is wrong with it."""
    if len(url) > MAX_LENGTH:
        return None, f"must be at most {MAX_LENGTH} characters, not {len(url)}"
    if _FORBIDDEN_CHARACTERS.search(url):
        return None, "must not contain spaces, control characters or backslashes"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None, "is not a valid URL"
    if parts.scheme not in ("http", "https"):
        return None, "must start with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return None, "must not contain a user name or password"
    if port == 0:
        return None, "must not have port 0"
    if not _is_host(_host(parts)):
        return None, "must have a valid host name"
    return parts, ""


def _host(parts: SplitResult) -> str:
    """Return the host as it is resolved: lower case, punycode, without the root's dot; empty if invalid."""
    host = (parts.hostname or "").removesuffix(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        return ""


def _is_host(host: str) -> bool:
    labels = host.split(".")
    if ":" in host or _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _literal_address(host) is not None
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _literal_address(host: str) -> Address | None:
    """Return *host* as an address, also if it is a name of localhost; None for other names."""
    if _LOCALHOST.fullmatch(host):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_forbidden(host: str, port: int, rules: Rules | None) -> bool:
    address = _literal_address(host)
    try:
        if address is None:
            parse_host(host)  # refuses the names of metadata services
        elif rules is not None:
            rules.check([address], port)
    except Refused:
        return True
    if address is None:
        return False
    # Settings may allow loopback and private addresses, but not these, where no video can be hosted.
    address = unmap(address)
    return address.is_link_local or address.is_multicast or address.is_unspecified
