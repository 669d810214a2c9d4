"""The fields of HTTP heads: read strictly, written plainly, those between two neighbours left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reelhaul_fetcher.guard.errors import Malformed

Fields = list[tuple[str, str]]

#: Body lengths that are no number of bytes.
CHUNKED = -1
UNTIL_CLOSE = -2


def values(fields: Fields, *names: str) -> list[str]:
    """The values of all fields of these (lower-case) names, in order."""
    return [value for name, value in fields if name.lower() in names]


def end_to_end(fields: Fields, *without: str) -> Iterator[str]:
    """The lines of *fields* that are meant for the other end, *without* those named."""
    dropped = {*_HOP_BY_HOP, *tokens(fields, "connection", "proxy-connection"), *without}
    return (f"{name}: {value}" for name, value in fields if name.lower() not in dropped)


def tokens(fields: Fields, *names: str) -> list[str]:
    """The members of lists in the fields of these names, in lower case."""
    found = (token.strip().lower() for value in values(fields, *names) for token in value.split(","))
    return [token for token in found if token]


def parse_field(line: str) -> tuple[str, str]:
    """Name and value of a field's line. Raises ``Malformed``."""
    found = _FIELD.fullmatch(line)
    if not found:
        raise Malformed("field")
    return found[1], found[2].strip(" \t")


def parse_length(digits: str) -> int:
    """The number that *digits* write. Raises ``Malformed``."""
    if not _LENGTH.fullmatch(digits):
        raise Malformed("length")
    return int(digits)


def framing(body: int, told_length: str) -> list[str]:
    """The field that tells where *body* ends; *told_length* stands where no body follows."""
    if body == CHUNKED:
        return ["Transfer-Encoding: chunked"]
    length = str(body) if body > 0 else told_length
    return [f"Content-Length: {length}"] if length else []


def write_head(lines: list[str]) -> bytes:
    """A whole head."""
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)", re.ASCII)
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
