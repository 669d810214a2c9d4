"""A file on a site's server: opened at any byte, and known again by its tag, its date and its length."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError

from reelhaul_fetcher.ytdlp.download.splice import Pipe, pipe_of
from reelhaul_fetcher.ytdlp.downloader import Downloader

Info = dict[str, Any]

_CONTENT_RANGE = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*")


class RemoteFileChanged(Exception):
    """What the server sends is not, or not provably, of the file that was begun."""


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one state of a file from another. Empty: the server does not say."""

    total: int | None = None
    tag: str = ""
    date: str = ""

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong tag, or the date."""
        return self.date if self.tag.startswith("W/") else self.tag or self.date

    def is_of(self, other: Version) -> bool:
        """Whether nothing speaks against both being one. A part may leave unsaid what it was asked by."""
        pairs = ((self.tag, other.tag), (self.date, other.date))
        return self.total == other.total and all(a == b for a, b in pairs if a and b)


class OpenRange:
    """An answer with bytes of the file, from the one that was asked for."""

    def __init__(self, answer: Response, version: Version, stop: int | None, *, partial: bool) -> None:
        self._answer = answer
        self._pipe: Pipe | None = None
        self.version = version
        #: The byte after the last that comes; None where that is not told.
        self.stop = stop
        #: Other parts can be asked for, and be known to be of the same file.
        self.divisible = partial and version.total is not None and bool(version.validator)

    def read_into(self, buffer: memoryview) -> int:
        """Fill *buffer* or come to the end; how many bytes. Raises TransportError."""
        try:
            body = self._answer.fp
            if isinstance(body, HTTPResponse):
                return body.readinto(buffer)
            content = self._answer.read(len(buffer))
        except (OSError, HTTPException, ValueError) as error:
            raise TransportError(cause=error) from error
        buffer[: len(content)] = content
        return len(content)

    def pipe(self) -> Pipe | None:
        """What brings the rest without a copy, where there is such a thing. Then nothing else is to be read.

        Raises TransportError.
        """
        self._pipe = self._pipe or pipe_of(self._answer.fp)
        return self._pipe

    def close(self) -> None:
        """Leave the connection."""
        self._answer.close()
        if self._pipe is not None:
            self._pipe.close()


class Remote:
    """Where the bytes of yt-dlp's *stream* are."""

    def __init__(self, downloader: Downloader, stream: Info) -> None:
        self._downloader = downloader
        self._url = str(stream["url"])
        self._headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
        #: Most bytes to ask for at once; 0: as many as there are. Longer ones are slowed down, then.
        self.chunk = int((stream.get("downloader_options") or {}).get("http_chunk_size") or 0)
        self._ranges = True

    def begin(self) -> OpenRange:
        """The file from its first byte. Raises what ``Downloader.urlopen`` does."""
        if self._ranges:
            try:
                return _good_to_begin(self._opened(0, self._within_chunk(0, None), None))
            except HTTPError as error:
                # An empty file has no byte to begin with, and some servers know no ranges at all.
                if error.status != 416:
                    raise
            except RemoteFileChanged:
                pass
            self._ranges = False
        return self._opened(0, None, None, ranged=False)

    def go_on(self, start: int, stop: int | None, version: Version) -> OpenRange:
        """*version* of the file from *start* to before *stop* or earlier. Raises Changed for another."""
        return self._opened(start, self._within_chunk(start, stop), version)

    def forget_ranges(self) -> None:
        """Ask for the whole file and nothing else, from now on."""
        self._ranges = False

    def _within_chunk(self, start: int, stop: int | None) -> int | None:
        if not self.chunk:
            return stop
        # As yt-dlp does: never quite the same length.
        end = start + random.randint(self.chunk * 95 // 100, self.chunk)  # noqa: S311 - no secret
        return end if stop is None else min(end, stop)

    def _opened(
        self, start: int, stop: int | None, version: Version | None, *, ranged: bool = True
    ) -> OpenRange:
        headers = dict(self._headers)
        if ranged:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if version is not None:
                headers["If-Range"] = version.validator
        try:
            answer = self._downloader.urlopen(Request(self._url, headers=headers))
        except HTTPError as error:
            error.response.close()
            raise
        try:
            return (
                _whole(answer) if version is None and answer.status != 206 else part(answer, start, version)
            )
        except BaseException:
            answer.close()
            raise


def _good_to_begin(opening: OpenRange) -> OpenRange:
    """*opening*, unless it is a part after which the next cannot be asked for. Raises Changed."""
    if not opening.divisible and opening.stop != opening.version.total:
        opening.close()
        raise RemoteFileChanged("a part of a file that cannot be known again")
    return opening


def part(answer: Response, start: int, wanted: Version | None) -> OpenRange:
    """*answer* as a part that begins with byte *start*. Raises Changed where it is not one of *wanted*."""
    told = answer.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(told)
    if answer.status != 206 or not found or int(found[1]) != start or _is_coded(answer):
        raise RemoteFileChanged(f"asked from byte {start}, answered with {answer.status} and {told!r}")
    stop = int(found[2]) + 1
    version = _version(answer, None if found[3] == "*" else int(found[3]))
    # An empty part would be asked for again and again.
    if not start < stop <= (version.total or stop) or _length(answer) not in (None, stop - start):
        raise RemoteFileChanged(f"{told!r} makes no sense")
    if not (wanted is None or version.is_of(wanted)):
        raise RemoteFileChanged(f"{told!r} of another file")
    return OpenRange(answer, version, stop, partial=True)


def _whole(answer: Response) -> OpenRange:
    # Of a coded body the length that is told is not the file's.
    total = None if _is_coded(answer) else _length(answer)
    return OpenRange(answer, _version(answer, total), total, partial=False)


def _length(answer: Response) -> int | None:
    told = str(answer.headers.get("Content-Length", ""))
    return int(told) if told.isdecimal() else None


def _version(answer: Response, total: int | None) -> Version:
    return Version(total, answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", ""))


def _is_coded(answer: Response) -> bool:
    return str(answer.headers.get("Content-Encoding", "identity")) != "identity"
