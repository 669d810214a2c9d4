"""Requests, read strictly: what a site could read differently from the guard is refused."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass

from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.fields import (
    CHUNKED,
    Fields,
    end_to_end,
    framing,
    parse_field,
    parse_length,
    tokens,
    values,
    write_head,
)


@dataclass(frozen=True)
class Request:
    """What a client of the guard asks for."""

    method: str
    #: As in a URL: a name, an IPv4 address, an IPv6 address in brackets.
    host: str
    port: int
    #: With the query; empty for CONNECT.
    path: str
    #: HTTP/1.0 or HTTP/1.1
    version: str
    fields: Fields
    #: Bytes, or CHUNKED.
    body: int

    @property
    def authority(self) -> str:
        """The value of Host."""
        return self.host if self.port == 80 else f"{self.host}:{self.port}"

    @property
    def keep(self) -> bool:
        """Whether the client means to ask more on this connection."""
        return self.version == "HTTP/1.1" and "close" not in tokens(
            self.fields, "connection", "proxy-connection"
        )

    def credentials(self) -> tuple[str, str]:
        """Name and secret of the pass; empty when there are none that can be read."""
        scheme, _, encoded = (values(self.fields, "proxy-authorization") or [""])[0].partition(" ")
        try:
            name, _, secret = b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        except ValueError:
            return "", ""
        return (name, secret) if scheme.lower() == "basic" else ("", "")

    def connecting(self, proxy_authorization: str) -> bytes:
        """The head that asks another proxy for the same tunnel."""
        place = f"{self.host}:{self.port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}")
        return write_head(lines)

    def forwarded(self, proxy_authorization: str | None = None) -> bytes:
        """The head to send on: to the site, or, with *proxy_authorization*, to another proxy."""
        target = self.path if proxy_authorization is None else f"http://{self.authority}{self.path}"
        lines = [f"{self.method} {target} {self.version}", f"Host: {self.authority}"]
        lines += end_to_end(self.fields, "host", "expect")
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}")
        lines.append("Connection: keep-alive" if self.version == "HTTP/1.1" else "Connection: close")
        told_length = "0" if values(self.fields, "content-length") else ""
        return write_head(lines + framing(self.body, told_length))


def parse_request(head: bytes) -> Request:
    """The request that *head*, with its final empty line, holds. Raises ``Malformed``."""
    if _BARE.search(head.replace(b"\r\n", b"")):
        raise Malformed("line-end")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if not line:
        raise Malformed("request-line")
    method, target, version = line.groups()
    fields = [parse_field(text) for text in lines]
    if len(fields) > 128 or len(values(fields, "host")) > 1:
        raise Malformed("fields")
    host, port, path = _connect_target(target) if method == "CONNECT" else _absolute_target(target)
    return Request(method, host, port, path, version, fields, _request_body(fields, version))


def _connect_target(target: str) -> tuple[str, int, str]:
    found = _AUTHORITY.fullmatch(target)
    if not found or not found[2]:
        raise Malformed("target")
    return found[1].lower(), _port(found[2]), ""


def _absolute_target(target: str) -> tuple[str, int, str]:
    found = _ABSOLUTE.fullmatch(target)
    authority = _AUTHORITY.fullmatch(found[1]) if found else None
    if not found or not authority:
        raise Malformed("target")
    path = found[2] if found[2].startswith("/") else f"/{found[2]}"
    return authority[1].lower(), _port(authority[2] or "80"), path


def _port(digits: str) -> int:
    port = int(digits)
    if not 0 < port < 65536:
        raise Malformed("port")
    return port


def _request_body(fields: Fields, version: str) -> int:
    lengths, codings = values(fields, "content-length"), values(fields, "transfer-encoding")
    if not codings:
        if len(lengths) > 1:
            raise Malformed("length")
        return parse_length(lengths[0]) if lengths else 0
    if lengths or version == "HTTP/1.0" or [coding.lower() for coding in codings] != ["chunked"]:
        raise Malformed("coding")
    return CHUNKED


_BARE = re.compile(rb"[\r\n\0]")
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([!-~]{1,16384}) (HTTP/1\.[01])", re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_ABSOLUTE = re.compile(r"(?i:http)://([^/?#]*)([^#]*)", re.ASCII)
