"""Request and response heads, read strictly: what two readers could take differently is refused."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass

from reelhaul_fetcher.guard.addresses import Refused
from reelhaul_fetcher.guard.answers import GUARD_FIELD

Fields = list[tuple[str, str]]

#: Body lengths that are no number of bytes.
CHUNKED = -1
UNTIL_CLOSE = -2


class Malformed(Refused):
    """A message that is not HTTP as it must be; nothing of it is passed on."""


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
        return self.version == "HTTP/1.1" and "close" not in _tokens(
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
        return _head(lines + ([f"Proxy-Authorization: {proxy_authorization}"] if proxy_authorization else []))

    def forwarded(self, proxy_authorization: str | None = None) -> bytes:
        """The head to send on: to the site, or, with *proxy_authorization*, to another proxy."""
        target = self.path if proxy_authorization is None else f"http://{self.authority}{self.path}"
        lines = [f"{self.method} {target} {self.version}", f"Host: {self.authority}"]
        lines += end_to_end(self.fields, "host", "expect")
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}")
        lines.append("Connection: keep-alive" if self.version == "HTTP/1.1" else "Connection: close")
        told_length = "0" if values(self.fields, "content-length") else ""
        return _head(lines + _framing(self.body, told_length))


@dataclass(frozen=True)
class Response:
    """What a site answers."""

    version: str
    status: int
    phrase: str
    fields: Fields

    def body(self, method: str) -> int:
        """Bytes of the body that follows in answer to *method*, or CHUNKED, or UNTIL_CLOSE.

        Raises ``Malformed``.
        """
        if method == "HEAD" or self.status in (204, 304):
            return 0
        codings = _tokens(self.fields, "transfer-encoding")
        if codings:
            if codings != ["chunked"]:
                raise Malformed("coding")
            return CHUNKED
        lengths = set(_tokens(self.fields, "content-length"))
        if len(lengths) > 1:
            raise Malformed("length")
        return _length(lengths.pop()) if lengths else UNTIL_CLOSE

    @property
    def keep(self) -> bool:
        """Whether another request may follow on this connection."""
        both = values(self.fields, "transfer-encoding") and values(self.fields, "content-length")
        return self.version == "HTTP/1.1" and not both and "close" not in _tokens(self.fields, "connection")

    def forwarded(self, body: int, keep: bool) -> bytes:
        """The head to send to the client. Only the guard itself speaks under the guard's name."""
        lines = [f"HTTP/1.1 {self.status} {self.phrase}", *end_to_end(self.fields, GUARD_FIELD)]
        lines.append("Connection: keep-alive" if keep else "Connection: close")
        return _head(lines + _framing(body, self._told_length()))

    def _told_length(self) -> str:
        # HEAD and 304 tell the length of a body that does not follow.
        lengths = set(_tokens(self.fields, "content-length"))
        return lengths.pop() if len(lengths) == 1 and self.status != 204 else ""


def parse_request(head: bytes) -> Request:
    """The request that *head*, with its final empty line, holds. Raises ``Malformed``."""
    if _BARE.search(head.replace(b"\r\n", b"")):
        raise Malformed("line-end")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if not line:
        raise Malformed("request-line")
    method, target, version = line.groups()
    fields = [_field(text) for text in lines]
    if len(fields) > 128 or len(values(fields, "host")) > 1:
        raise Malformed("fields")
    host, port, path = _connect_target(target) if method == "CONNECT" else _absolute_target(target)
    return Request(method, host, port, path, version, fields, _request_body(fields, version))


def parse_response(head: bytes) -> Response:
    """The response that *head* holds; sloppy line ends, folds and spaces are made good.

    Raises ``Malformed``.
    """
    text = re.sub(r"\r?\n[ \t]+", " ", head.decode("latin-1").rstrip("\r\n"))
    first, *lines = re.split(r"[ \t]*\r?\n", text)
    line = _STATUS_LINE.fullmatch(first)
    if not line or len(lines) > 256:
        raise Malformed("status-line")
    version, status, phrase = line.groups()
    return Response(version, int(status), phrase or "", [_field(_SPACED.sub(r"\1:", text)) for text in lines])


def values(fields: Fields, *names: str) -> list[str]:
    """The values of all fields of these (lower-case) names, in order."""
    return [value for name, value in fields if name.lower() in names]


def end_to_end(fields: Fields, *without: str) -> Iterator[str]:
    """The lines of *fields* that are meant for the other end, *without* those named."""
    dropped = {*_HOP_BY_HOP, *_tokens(fields, "connection", "proxy-connection"), *without}
    return (f"{name}: {value}" for name, value in fields if name.lower() not in dropped)


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
        return _length(lengths[0]) if lengths else 0
    if lengths or version == "HTTP/1.0" or [coding.lower() for coding in codings] != ["chunked"]:
        raise Malformed("coding")
    return CHUNKED


def _length(digits: str) -> int:
    if not _LENGTH.fullmatch(digits):
        raise Malformed("length")
    return int(digits)


def _field(line: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(line)
    if not found:
        raise Malformed("field")
    return found[1], found[2].strip(" \t")


def _tokens(fields: Fields, *names: str) -> list[str]:
    tokens = (token.strip().lower() for value in values(fields, *names) for token in value.split(","))
    return [token for token in tokens if token]


def _framing(body: int, told_length: str) -> list[str]:
    if body == CHUNKED:
        return ["Transfer-Encoding: chunked"]
    length = str(body) if body > 0 else told_length
    return [f"Content-Length: {length}"] if length else []


def _head(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_BARE = re.compile(rb"[\r\n\0]")
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) ([!-~]{1,16384}) (HTTP/1\.[01])", re.ASCII)
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?", re.ASCII)
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)", re.ASCII)
_SPACED = re.compile(r"^([^\s:]+)[ \t]+:")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_ABSOLUTE = re.compile(r"(?i:http)://([^/?#]*)([^#]*)", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
#: Content-Length is written anew from the body's framing.
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
    ]
)
