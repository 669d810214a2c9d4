"""Header fields of requests and responses: strict parsing, plain encoding, no hop-by-hop fields."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reelhaul_fetcher.guard.errors import Malformed

Fields = list[tuple[str, str]]

#: Body lengths that are not a number of bytes.
CHUNKED = -1
UNTIL_CLOSE = -2


def get_all(fields: Fields, *names: str) -> list[str]:
    """Return the values of all fields with one of these (lower-case) names, in order."""
    return [value for name, value in fields if name.lower() in names]


def list_members(fields: Fields, *names: str) -> list[str]:
    """Return the members of the comma-separated lists in the fields of these names, in lower case."""
    members = (member.strip().lower() for value in get_all(fields, *names) for member in value.split(","))
    return [member for member in members if member]


def end_to_end_lines(fields: Fields, *without: str) -> Iterator[str]:
    """Return the lines to forward: all but hop-by-hop fields (RFC 9110, 7.6.1) and those in *without*."""
    dropped = {*_HOP_BY_HOP, *list_members(fields, "connection", "proxy-connection"), *without}
    return (f"{name}: {value}" for name, value in fields if name.lower() not in dropped)


def parse_field(line: str) -> tuple[str, str]:
    """Return the name and value of a field line. Raises ``Malformed``."""
    field = _FIELD.fullmatch(line)
    if not field:
        raise Malformed("field")
    return field[1], field[2].strip(" \t")


def parse_length(digits: str) -> int:
    """Return the number in a Content-Length. Raises ``Malformed``."""
    if not _LENGTH.fullmatch(digits):
        raise Malformed("length")
    return int(digits)


def framing_lines(body_length: int, declared_length: str) -> list[str]:
    """Return the field that frames a body of *body_length*; *declared_length* is sent if there is no body."""
    if body_length == CHUNKED:
        return ["Transfer-Encoding: chunked"]
    length = str(body_length) if body_length > 0 else declared_length
    return [f"Content-Length: {length}"] if length else []


def encode_head(lines: list[str]) -> bytes:
    """Return the bytes of a head."""
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
#: Content-Length is encoded anew from the body's length.
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
