"""Safe resumption for yt-dlp's own downloaders, which append to a file whatever the server sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import TransportError

from reelhaul_fetcher.model.http_values import parse_validator

_RANGE_START = re.compile(r"bytes=(\d+)-")
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class _FileState:
    """What a response told of the version of its file; empty where it told nothing."""

    etag: str
    last_modified: str
    total: str
    #: The file is downloaded in parts: a range is not what follows an interruption.
    in_parts: bool

    @property
    def validator(self) -> str:
        """What If-Range takes (RFC 9110): a strong tag, or the date."""
        return self.last_modified if self.etag.startswith("W/") else self.etag or self.last_modified

    def contradicts(self, other: _FileState) -> bool:
        """Return whether both cannot be of the same version."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.total, other.total),
        )
        return any(a and b and a != b for a, b in pairs)


class ResumeChecker:
    """Remembers the version of each file requested, and lets no other version be appended to it."""

    def __init__(self, urlopen: Callable[[Request], Response]) -> None:
        self._urlopen = urlopen
        self._states: dict[str, _FileState] = {}

    def urlopen(self, request: Request) -> Response:
        """Open *request*: the response is of the file that was begun, or the whole of what is there now.

        Raises TransportError if the file changed and is downloaded in parts: the whole would not help.
        """
        range_start = _RANGE_START.match(request.headers.get("Range", ""))
        before = self._states.get(request.url)
        resumes = range_start is not None and int(range_start[1]) > 0
        # A caller that sends If-Range checks the response itself.
        if not resumes or before is None or "If-Range" in request.headers:
            return self._remember(request, self._urlopen(request), in_parts=range_start is not None)
        if before.validator:
            request.headers["If-Range"] = before.validator
        elif not before.in_parts:
            return self._open_whole(request)
        response = self._urlopen(request)
        if response.status != 206 or not before.contradicts(_read_state(response, in_parts=True)):
            return self._remember(request, response, in_parts=before.in_parts)
        response.close()
        if before.in_parts:
            raise TransportError("the file changed between two of its parts")
        return self._open_whole(request)

    def _open_whole(self, request: Request) -> Response:
        for name in ("Range", "If-Range"):
            request.headers.pop(name, None)
        return self._remember(request, self._urlopen(request), in_parts=False)

    def _remember(self, request: Request, response: Response, *, in_parts: bool) -> Response:
        self._states[request.url] = _read_state(response, in_parts=in_parts)
        return response


def _read_state(response: Response, *, in_parts: bool) -> _FileState:
    headers = response.headers
    total = _TOTAL.match(headers.get("Content-Range", ""))
    length = str(headers.get("Content-Length", "")) if response.status == 200 else ""
    return _FileState(
        etag=parse_validator(headers.get("ETag", "")),
        last_modified=parse_validator(headers.get("Last-Modified", "")),
        total=total[1] if total else length,
        in_parts=in_parts,
    )
