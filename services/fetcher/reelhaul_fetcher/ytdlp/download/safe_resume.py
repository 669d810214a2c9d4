"""Resuming with care: yt-dlp goes on after a break whatever the server sends then, another file as well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import TransportError

_FROM = re.compile(r"bytes=(\d+)-")
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class Known:
    """What an answer said of the state of its file; empty where it said nothing."""

    tag: str
    date: str
    total: str
    #: It was asked for a part only: parts are how this file is come by, not what follows a break.
    in_parts: bool

    @property
    def validator(self) -> str:
        """What If-Range takes."""
        return self.date if self.tag.startswith("W/") else self.tag or self.date

    def contradicts(self, other: Known) -> bool:
        """Whether both cannot be of one state."""
        pairs = ((self.tag, other.tag), (self.date, other.date), (self.total, other.total))
        return any(one and another and one != another for one, another in pairs)


class Resuming:
    """Remembers the state of each file that was asked for, and has nothing else put behind its bytes."""

    def __init__(self, opened: Any) -> None:
        self._open = opened
        self._known: dict[str, Known] = {}

    def urlopen(self, request: Request) -> Response:
        """The answer to *request*: of the file that was begun, or the whole of what is there now.

        Raises TransportError where that would not help: the file is come by in parts.
        """
        told = _FROM.match(request.headers.get("Range", ""))
        before = self._known.get(request.url)
        goes_on = told is not None and int(told[1]) > 0 and before is not None
        # Who asks with If-Range looks at the answer as well.
        if not goes_on or before is None or "If-Range" in request.headers:
            return self._noted(request, self._open(request), in_parts=told is not None)
        if before.validator:
            request.headers["If-Range"] = before.validator
        elif not before.in_parts:
            return self._whole(request)
        answer = self._open(request)
        if answer.status != 206 or not before.contradicts(_known(answer, in_parts=True)):
            return self._noted(request, answer, in_parts=before.in_parts)
        answer.close()
        if before.in_parts:
            raise TransportError("the file changed between two of its parts")
        return self._whole(request)

    def _whole(self, request: Request) -> Response:
        for name in ("Range", "If-Range"):
            request.headers.pop(name, None)
        return self._noted(request, self._open(request), in_parts=False)

    def _noted(self, request: Request, answer: Response, *, in_parts: bool) -> Response:
        self._known[request.url] = _known(answer, in_parts=in_parts)
        return answer


def _known(answer: Response, *, in_parts: bool) -> Known:
    headers = answer.headers
    total = _TOTAL.match(headers.get("Content-Range", ""))
    length = str(headers.get("Content-Length", "")) if answer.status == 200 else ""
    return Known(
        tag=headers.get("ETag", ""),
        date=headers.get("Last-Modified", ""),
        total=total[1] if total else length,
        in_parts=in_parts,
    )
