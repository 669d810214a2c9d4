"""A file on a site's server: opened at any byte, and recognised by its tag, date and length (RFC 9110)."""

from __future__ import annotations

import random
from http.client import HTTPException, HTTPResponse

from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError

from reelhaul_fetcher.model.http_values import parse_content_range, parse_decimal, parse_validator
from reelhaul_fetcher.ytdlp.download.safe_resume import FileVersion
from reelhaul_fetcher.ytdlp.download.splice import Pipe, open_pipe
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info

# Of a Content-Range that is invalid, in an error.
_MAX_SHOWN = 100


class RemoteFileChanged(Exception):
    """The response is not, or not provably, of the file that the download began with."""


class OpenRange:
    """A response with bytes of the file, from the requested one on."""

    def __init__(self, response: Response, version: FileVersion, stop: int | None, *, partial: bool) -> None:
        self._response = response
        self._pipe: Pipe | None = None
        self.version = version
        #: The byte after the last of the response; None if the server does not tell.
        self.stop = stop
        #: Other ranges can be requested and recognised as of the same file.
        self.divisible = partial and version.total is not None and bool(version.validator)
        headers = response.headers
        is_chunked = "chunked" in str(headers.get("Transfer-Encoding", "")).lower()
        #: Whether a truncated response is detected.
        self.delimited = is_chunked or headers.get("Content-Length") is not None

    def read_into(self, buffer: memoryview) -> int:
        """Read until *buffer* is full or the response ends; return the number of bytes.

        Raises TransportError.
        """
        try:
            body = self._response.fp
            if isinstance(body, HTTPResponse):
                return body.readinto(buffer)
            content = self._response.read(len(buffer))
        except (OSError, HTTPException, ValueError) as error:
            raise TransportError(cause=error) from error
        buffer[: len(content)] = content
        return len(content)

    def pipe(self) -> Pipe | None:
        """Return a pipe for the rest of the response; None if it cannot be spliced.

        Afterwards nothing else may read the response. Raises TransportError.
        """
        self._pipe = self._pipe or open_pipe(self._response.fp)
        return self._pipe

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        if self._pipe is not None:
            self._pipe.close()


class RemoteFile:
    """The file of yt-dlp's *stream*."""

    def __init__(self, downloader: Downloader, stream: Info) -> None:
        self._downloader = downloader
        self._url = str(stream["url"])
        self._headers = {**(stream.get("http_headers") or {}), "Accept-Encoding": "identity"}
        #: Most bytes to request at once; 0: no limit. A server with a limit throttles longer responses.
        self.chunk_size = int((stream.get("downloader_options") or {}).get("http_chunk_size") or 0)
        self._use_ranges = True

    def open_start(self) -> OpenRange:
        """Open the file at its first byte. Raises what ``Downloader.urlopen`` raises."""
        if self._use_ranges:
            try:
                return _require_continuable(self._open(0, self._limit_to_chunk(0, None), None))
            except HTTPError as error:
                # An empty file has no first byte, and some servers refuse all ranges so.
                if error.status != 416:
                    raise
            except RemoteFileChanged:
                pass
            self._use_ranges = False
        return self._open(0, None, None, ranged=False)

    def open_range(self, start: int, stop: int | None, version: FileVersion) -> OpenRange:
        """Open *version* of the file at *start*, up to *stop* or earlier. Raises RemoteFileChanged."""
        try:
            return self._open(start, self._limit_to_chunk(start, stop), version)
        except HTTPError as error:
            if error.status != 416:
                raise
            raise RemoteFileChanged(f"the file has no byte {start} any more") from error

    def disable_ranges(self) -> None:
        """From now on, request the whole file only."""
        self._use_ranges = False

    def _limit_to_chunk(self, start: int, stop: int | None) -> int | None:
        if not self.chunk_size:
            return stop
        # Of varying length, as yt-dlp does it.
        end = start + random.randint(self.chunk_size * 95 // 100, self.chunk_size)  # noqa: S311 - no secret
        return end if stop is None else min(end, stop)

    def _open(
        self, start: int, stop: int | None, version: FileVersion | None, *, ranged: bool = True
    ) -> OpenRange:
        headers = dict(self._headers)
        if ranged:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if version is not None:
                headers["If-Range"] = version.validator
        try:
            response = self._downloader.urlopen(Request(self._url, headers=headers))
        except HTTPError as error:
            error.response.close()
            raise
        try:
            if version is None and response.status != 206:
                return _read_whole(response)
            return read_part(response, start, version)
        except BaseException:
            response.close()
            raise


def read_part(response: Response, start: int, expected: FileVersion | None) -> OpenRange:
    """Return *response* as a part from *start* on. Raises RemoteFileChanged if it is not of *expected*."""
    content_range = str(response.headers.get("Content-Range", ""))[:_MAX_SHOWN]
    part = parse_content_range(content_range)
    if response.status != 206 or part is None or part.first != start or _is_encoded(response):
        raise RemoteFileChanged(
            f"requested from byte {start}, the response is {response.status} {content_range!r}"
        )
    stop = part.last + 1
    version = _read_version(response, part.total)
    # An empty part would be requested again and again.
    is_consistent = start < stop <= (version.total or stop) and _length(response) in (None, stop - start)
    if not is_consistent:
        raise RemoteFileChanged(f"{content_range!r} is inconsistent")
    if expected is not None and (version.total != expected.total or version.contradicts(expected)):
        raise RemoteFileChanged(f"{content_range!r} is of another version of the file")
    return OpenRange(response, version, stop, partial=True)


def _require_continuable(opened: OpenRange) -> OpenRange:
    """Return *opened*; raise RemoteFileChanged if it is a part after which the next cannot be requested."""
    if not opened.divisible and opened.stop != opened.version.total:
        opened.close()
        raise RemoteFileChanged("a part of a file that cannot be recognised")
    return opened


def _read_whole(response: Response) -> OpenRange:
    # The length of an encoded body is not that of the file.
    total = None if _is_encoded(response) else _length(response)
    return OpenRange(response, _read_version(response, total), total, partial=False)


def _read_version(response: Response, total: int | None) -> FileVersion:
    headers = response.headers
    etag, last_modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return FileVersion(total, parse_validator(etag), parse_validator(last_modified))


def _length(response: Response) -> int | None:
    return parse_decimal(response.headers.get("Content-Length", ""))


def _is_encoded(response: Response) -> bool:
    return str(response.headers.get("Content-Encoding", "identity")) != "identity"
