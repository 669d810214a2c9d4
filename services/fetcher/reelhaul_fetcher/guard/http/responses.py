"""Answers of sites, made plain: whatever a site wrote, its client reads one form with one end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reelhaul_fetcher.guard.errors import Malformed
from reelhaul_fetcher.guard.http.error_responses import FAILURE_FIELD, REFUSAL_FIELD
from reelhaul_fetcher.guard.http.fields import (
    CHUNKED,
    UNTIL_CLOSE,
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
        codings = tokens(self.fields, "transfer-encoding")
        if codings:
            if codings != ["chunked"]:
                raise Malformed("coding")
            return CHUNKED
        lengths = set(tokens(self.fields, "content-length"))
        if len(lengths) > 1:
            raise Malformed("length")
        return parse_length(lengths.pop()) if lengths else UNTIL_CLOSE

    @property
    def keep(self) -> bool:
        """Whether another request may follow on this connection."""
        both = values(self.fields, "transfer-encoding") and values(self.fields, "content-length")
        return self.version == "HTTP/1.1" and not both and "close" not in tokens(self.fields, "connection")

    def forwarded(self, body: int, keep: bool) -> bytes:
        """The head to send to the client. Only the guard itself speaks under the guard's name."""
        lines = [f"HTTP/1.1 {self.status} {self.phrase}", *end_to_end(self.fields, *_OURS)]
        lines.append("Connection: keep-alive" if keep else "Connection: close")
        return write_head(lines + framing(body, self._told_length()))

    def _told_length(self) -> str:
        # HEAD and 304 tell the length of a body that does not follow.
        lengths = set(tokens(self.fields, "content-length"))
        return lengths.pop() if len(lengths) == 1 and self.status != 204 else ""


def parse_response(head: bytes) -> Response:
    """The response that *head* holds; sloppy line ends, folds and spaces are made good.

    Raises ``Malformed``.
    """
    text = re.sub(r"\r?\n[ \t]+", " ", head.decode("latin-1").rstrip("\r\n"))
    first, *lines = re.split(r"[ \t]*\r?\n", text)
    found = _STATUS_LINE.fullmatch(first)
    if not found or len(lines) > 256:
        raise Malformed("status-line")
    version, status, phrase = found.groups()
    return Response(
        version, int(status), phrase or "", [parse_field(_SPACED.sub(r"\1:", text)) for text in lines]
    )


_OURS = (REFUSAL_FIELD.lower(), FAILURE_FIELD.lower())
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?", re.ASCII)
_SPACED = re.compile(r"^([^\s:]+)[ \t]+:")
