"""Parses requests strictly: whatever a site could parse differently from the guard is refused.

h11 is not used here: it accepts bare line feeds, folded fields, repeated Content-Length, Content-Length
beside Transfer-Encoding and control characters, and every target, so all these checks would remain. It
rejects absolute targets without Host and old servers' responses, and cannot relay a chunked body unchanged.
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass

from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.fields import (
    CHUNKED,
    Fields,
    encode_head,
    end_to_end_lines,
    framing_lines,
    get_all,
    list_members,
    parse_field,
    parse_length,
)


@dataclass(frozen=True)
class Request:
    """A client's request to the proxy."""

    method: str
    #: As in a URL: a name, an IPv4 address, or an IPv6 address in brackets.
    host: str
    port: int
    #: With the query; empty for CONNECT.
    path: str
    #: HTTP/1.0 or HTTP/1.1
    version: str
    fields: Fields
    #: In bytes, or CHUNKED.
    body_length: int

    @property
    def authority(self) -> str:
        """The value of Host."""
        return self.host if self.port == 80 else f"{self.host}:{self.port}"

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return self.version == "HTTP/1.1" and "close" not in list_members(
            self.fields, "connection", "proxy-connection"
        )

    def encode_connect(self, proxy_authorization: str) -> bytes:
        """Return the head that asks an upstream proxy for the same tunnel."""
        authority = f"{self.host}:{self.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}")
        return encode_head(lines)

    def encode(self, proxy_authorization: str | None = None) -> bytes:
        """Return the head to forward to the site, or, with *proxy_authorization*, to an upstream proxy."""
        target = self.path if proxy_authorization is None else f"http://{self.authority}{self.path}"
        lines = [f"{self.method} {target} {self.version}", f"Host: {self.authority}"]
        lines += end_to_end_lines(self.fields, "host", "expect")
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}")
        lines.append("Connection: keep-alive" if self.version == "HTTP/1.1" else "Connection: close")
        declared_length = "0" if get_all(self.fields, "content-length") else ""
        return encode_head(lines + framing_lines(self.body_length, declared_length))


@dataclass(frozen=True)
class RequestHead:
    """The lines of a request, whose target is not parsed yet."""

    method: str
    target: str
    version: str
    fields: Fields

    def credentials(self) -> tuple[str, str]:
        """Return the session's name and secret; empty if there are none, or they cannot be decoded."""
        scheme, _, encoded = (get_all(self.fields, "proxy-authorization") or [""])[0].partition(" ")
        try:
            name, _, secret = b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        except ValueError:
            return "", ""
        return (name, secret) if scheme.lower() == "basic" else ("", "")

    def to_request(self) -> Request:
        """Parse the target and the length of the body. Raises ``Malformed``."""
        parse_target = _parse_connect_target if self.method == "CONNECT" else _parse_absolute_target
        body_length = _body_length(self.fields, self.version)
        return Request(self.method, *parse_target(self.target), self.version, self.fields, body_length)


def parse_request_head(head: bytes) -> RequestHead:
    """Parse the lines of *head*, which includes its final empty line. Raises ``Malformed``."""
    if _BARE_LINE_END.search(head.replace(b"\r\n", b"")):
        raise Malformed("line-end")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    request_line = _REQUEST_LINE.fullmatch(first)
    if not request_line:
        raise Malformed("request-line")
    method, target, version = request_line.groups()
    fields = [parse_field(line) for line in lines]
    if len(fields) > 128 or len(get_all(fields, "host")) > 1:
        raise Malformed("fields")
    return RequestHead(method, target, version, fields)


def _parse_connect_target(target: str) -> tuple[str, int, str]:
    authority = _AUTHORITY.fullmatch(target)
    if not authority or not authority[2]:
        raise Malformed("target")
    return authority[1].lower(), _parse_port(authority[2]), ""


def _parse_absolute_target(target: str) -> tuple[str, int, str]:
    url = _ABSOLUTE_URL.fullmatch(target)
    authority = _AUTHORITY.fullmatch(url[1]) if url else None
    if not url or not authority:
        raise Malformed("target")
    path = url[2] if url[2].startswith("/") else f"/{url[2]}"
    return authority[1].lower(), _parse_port(authority[2] or "80"), path


def _parse_port(digits: str) -> int:
    port = int(digits)
    if not 0 < port < 65536:
        raise Malformed("port")
    return port


def _body_length(fields: Fields, version: str) -> int:
    lengths, codings = get_all(fields, "content-length"), get_all(fields, "transfer-encoding")
    if not codings:
        if len(lengths) > 1:
            raise Malformed("length")
        return parse_length(lengths[0]) if lengths else 0
    if lengths or version == "HTTP/1.0" or [coding.lower() for coding in codings] != ["chunked"]:
        raise Malformed("coding")
    return CHUNKED


_BARE_LINE_END = re.compile(rb"[\r\n\0]")
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([!-~]{1,16384}) (HTTP/1\.[01])", re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_ABSOLUTE_URL = re.compile(r"(?i:http)://([^/?#]*)([^#]*)", re.ASCII)
