"""Safe resumption for yt-dlp's own downloaders, which append to a file whatever the server sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import TransportError

from reelhaul_fetcher.model.http_values import parse_content_range, parse_decimal, parse_validator

_RANGE_START = re.compile(r"bytes=([0-9]{1,18})-")


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What a server tells of one version of a file (RFC 9110); None or empty where it tells nothing."""

    #: Length in bytes.
    total: int | None = None
    etag: str = ""
    last_modified: str = ""

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong tag, or the date."""
        return self.last_modified if self.etag.startswith("W/") else self.etag or self.last_modified

    def contradicts(self, other: FileVersion) -> bool:
        """Return whether both cannot be the same. A part may omit the validator of its request."""
        pairs = (
            (self.total, other.total),
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
        )
        return any(a != b for a, b in pairs if a not in (None, "") and b not in (None, ""))


class ResumeChecker:
    """Remembers the version of each file requested, and lets no other version be appended to it."""

    def __init__(self, urlopen: Callable[[Request], Response]) -> None:
        self._urlopen = urlopen
        #: By URL: the version of the file, and whether it is downloaded in parts from its first request on,
        #: so that a range does not mean that an interruption came before.
        self._files: dict[str, tuple[FileVersion, bool]] = {}

    def known_version(self, url: str) -> FileVersion | None:
        """Return the version of the file at *url* in the latest response; None if there was none."""
        return self._files[url][0] if url in self._files else None

    def remember_version(self, url: str, version: FileVersion) -> None:
        """Store that an earlier process received bytes of *version* of the whole file at *url*."""
        self._files[url] = version, False

    def urlopen(self, request: Request) -> Response:
        """Open *request*: the response is of the file that was begun, or the whole of what is there now.

        Raises TransportError if the file changed and is downloaded in parts: the whole would not help.
        """
        range_start = _RANGE_START.match(request.headers.get("Range", ""))
        resumes = range_start is not None and int(range_start[1]) > 0
        # A caller that sends If-Range checks the response itself.
        if not resumes or request.url not in self._files or "If-Range" in request.headers:
            return self._remember(request, self._urlopen(request), in_parts=range_start is not None)
        version, in_parts = self._files[request.url]
        if version.validator:
            request.headers["If-Range"] = version.validator
        elif not in_parts:
            return self._open_whole(request)
        response = self._urlopen(request)
        if response.status != 206 or not version.contradicts(_read_version(response)):
            return self._remember(request, response, in_parts=in_parts)
        response.close()
        if in_parts:
            raise TransportError("the file changed between two of its parts")
        return self._open_whole(request)

    def _open_whole(self, request: Request) -> Response:
        for name in ("Range", "If-Range"):
            request.headers.pop(name, None)
        return self._remember(request, self._urlopen(request), in_parts=False)

    def _remember(self, request: Request, response: Response, *, in_parts: bool) -> Response:
        self._files[request.url] = (_read_version(response), in_parts)
        return response


def _read_version(response: Response) -> FileVersion:
    headers = response.headers
    part = parse_content_range(headers.get("Content-Range", ""))
    total = part.total if part else None
    if total is None and response.status == 200:
        total = parse_decimal(headers.get("Content-Length", ""))
    return FileVersion(
        total, parse_validator(headers.get("ETag", "")), parse_validator(headers.get("Last-Modified", ""))
    )
