"""Parses responses leniently and encodes them plainly: clients get one form with one unambiguous end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.error_responses import FAILURE_FIELD, REFUSAL_FIELD, VERDICT_FIELD
from reelhaul_fetcher.guard.http.fields import (
    CHUNKED,
    UNTIL_CLOSE,
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
class Response:
    """The head of a site's response."""

    version: str
    status: int
    phrase: str
    fields: Fields

    def body_length(self, method: str) -> int:
        """Return the bytes of the body that answers *method*, or CHUNKED, or UNTIL_CLOSE (RFC 9112, 6.3).

        Raises ``Malformed``.
        """
        if method == "HEAD" or self.status in (204, 304):
            return 0
        codings = list_members(self.fields, "transfer-encoding")
        if codings:
            if codings != ["chunked"]:
                raise Malformed("coding")
            return CHUNKED
        lengths = set(list_members(self.fields, "content-length"))
        if len(lengths) > 1:
            raise Malformed("length")
        return parse_length(lengths.pop()) if lengths else UNTIL_CLOSE

    @property
    def keep_alive(self) -> bool:
        """Whether another request may be sent on this connection."""
        both = get_all(self.fields, "transfer-encoding") and get_all(self.fields, "content-length")
        closing = "close" in list_members(self.fields, "connection")
        return self.version == "HTTP/1.1" and not both and not closing

    def encode(self, body_length: int, keep_alive: bool) -> bytes:
        """Return the head for the client, without the guard's own fields: no site may imitate the guard."""
        lines = [f"HTTP/1.1 {self.status} {self.phrase}", *end_to_end_lines(self.fields, *_GUARD_FIELDS)]
        lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
        return encode_head(lines + framing_lines(body_length, self._declared_length()))

    def _declared_length(self) -> str:
        # HEAD and 304 declare the length of a body that does not follow.
        lengths = set(list_members(self.fields, "content-length"))
        return lengths.pop() if len(lengths) == 1 and self.status != 204 else ""


def parse_response(head: bytes) -> Response:
    """Parse *head*; wrong line ends, folded fields and extra spaces are tolerated. Raises ``Malformed``."""
    text = _FOLD.sub(" ", head.decode("latin-1").rstrip("\r\n"))
    # Not `re.split(r"[ \t]*\r?\n")`: it is quadratic in a run of spaces.
    first, *lines = (line.removesuffix("\r").rstrip(" \t") for line in text.split("\n"))
    status_line = _STATUS_LINE.fullmatch(first)
    if not status_line or len(lines) > 256:
        raise Malformed("status-line")
    version, status, phrase = status_line.groups()
    fields = [parse_field(_SPACE_BEFORE_COLON.sub(r"\1:", line)) for line in lines]
    return Response(version, int(status), phrase or "", fields)


_GUARD_FIELDS = tuple(name.lower() for name in (REFUSAL_FIELD, FAILURE_FIELD, VERDICT_FIELD))
_FOLD = re.compile(r"\r?\n[ \t]+")
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?", re.ASCII)
_SPACE_BEFORE_COLON = re.compile(r"^([^\s:]+)[ \t]+:")
