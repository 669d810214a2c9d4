"""URLs that callers give: refused here by their looks alone; where they lead is the guard's to judge."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.validation.violations import FieldViolations

MAX_LENGTH = 2048

# Parsers disagree on these (a backslash is a slash to some), so no two may be left to differ.
_NEVER = re.compile(r"[\x00-\x20\x7f-\x9f\\\u2028\u2029]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# A last label of digits makes an IPv4 address of the whole, in one of its many spellings.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Nearly every URL is of this shape, which no two parsers read differently.
_PLAIN = re.compile(r"https?://([A-Za-z0-9._-]+)(?:[/?#]|\Z)")
_METADATA_NAMES = {"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"}


def check_url(url: str, field: str, findings: FieldViolations) -> None:
    """Find what is wrong with *url*: URL_INVALID, or URL_FORBIDDEN where no setting could allow its host."""
    if not url:
        findings.add(field, "it is required")
        return
    if _is_plain(url):
        return
    parts, wrong = _split(url)
    if parts is None:
        findings.add(field, wrong, reason=ErrorReason.URL_INVALID, metadata={"url": redact(url)})
    elif _is_forbidden(host := _host(parts)):
        findings.add(
            field,
            f"{host} may not be fetched from",
            reason=ErrorReason.URL_FORBIDDEN,
            metadata={"host": host},
        )


def redact(url: str) -> str:
    """*url* as it may be told and logged: without user info, at most 256 printable characters."""
    bare = re.sub(r"^([^:/?#]*:)?(//)?[^/?#]*@", r"\1\2", url[: MAX_LENGTH * 2])
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in bare[:256])


def _is_plain(url: str) -> bool:
    """Whether *url* is fine at the first look."""
    if len(url) > MAX_LENGTH or (plain := _PLAIN.match(url)) is None or _NEVER.search(url):
        return False
    return _may_be_asked(plain[1].lower().removesuffix("."))


@lru_cache(maxsize=1024)
def _may_be_asked(host: str) -> bool:
    return _is_host(host) and not _is_forbidden(host)


def _split(url: str) -> tuple[SplitResult | None, str]:
    """The parts of *url*, or None and what is wrong with it."""
    if len(url) > MAX_LENGTH:
        return None, f"at most {MAX_LENGTH} characters, not {len(url)}"
    if _NEVER.search(url):
        return None, "it holds a space, a control character or a backslash"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None, "it does not parse as a URL"
    if parts.scheme not in ("http", "https"):
        return None, "it must begin with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return None, "it must not hold a user name or password"
    if port == 0:
        return None, "0 is no port"
    if not _is_host(_host(parts)):
        return None, "it has no valid host name"
    return parts, ""


def _host(parts: SplitResult) -> str:
    """The host as it is looked up: lower case, punycode, without the dot of the root."""
    host = (parts.hostname or "").removesuffix(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        return ""


def _is_host(host: str) -> bool:
    if ":" in host:
        return _address(host) is not None
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        return _address(host) is not None
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    # Addresses that carry another within: ::ffff:a.b.c.d is a.b.c.d to the kernel.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_forbidden(host: str) -> bool:
    """Whether *host* is one that nobody hosts videos at. Loopback and private ones may be allowed."""
    address = _address(host)
    if address is None:
        return host in _METADATA_NAMES
    return address.is_link_local or address.is_multicast or address.is_unspecified
