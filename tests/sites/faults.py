"""Faults of a response, requested in the query of its URL: ``/media/1080.mp4?reset=2000000&times=1``.

On a page or a manifest, ``media.<fault>`` applies to the media that it links to, not to itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

#: Query parameters that are not faults: they make URLs distinct, or are the target of a redirect.
NOT_FAULTS = {"token", "v", "to"}
MEDIA_PREFIX = "media."


@dataclass(frozen=True)
class Faults:
    """The faults of one response; none by default."""

    #: Respond with this status.
    fail: int = 0
    #: Seconds of the Retry-After header, with ``fail``.
    retry_after: int = 0
    #: Apply the faults only to this number of requests of a path and ``token``; 0: to all.
    times: int = 0
    #: Seconds until the response begins.
    delay: float = 0
    #: Never respond.
    hang: bool = False
    #: Reset the connection after this many bytes of the body.
    reset: int = 0
    #: Send this many bytes of the body, then nothing more.
    stall: int = 0
    #: Bytes per second on this connection.
    rate: int = 0
    #: ``no``: ignore Range.
    ranges: str = ""
    #: Add this to Content-Length; may be negative.
    length: int = 0
    #: Send the body chunked, without Content-Length.
    chunked: bool = False
    #: Send another ETag and other bytes, of the same number, at each request.
    changing: bool = False
    #: Apply the faults only to ranges that start within the file; ``rate`` still applies to all requests.
    parts: bool = False
    #: Never send the 100 kB from this byte of the file on: a response ends before them, without an error.
    hole: int = 0
    #: Add this to the positions in Content-Range.
    shift: int = 0
    #: Ignore If-Range.
    blind: bool = False
    #: Send neither ETag nor Last-Modified.
    nameless: bool = False
    #: Origin of the media that a page links to, or of a playlist's segments: ``http://127.0.0.3:8080``.
    media_host: str = ""

    @classmethod
    def from_query(cls, query: dict[str, str]) -> Self:
        """Return the faults that *query* requests. Raises ValueError for an unknown one."""
        types = {field.name: type(field.default) for field in fields(cls)}
        requested = {k: v for k, v in query.items() if k not in NOT_FAULTS and not k.startswith(MEDIA_PREFIX)}
        if unknown := requested.keys() - types.keys():
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {name: _parse(types[name], value) for name, value in requested.items()}
        return cls(**values)


NO_FAULTS = Faults()


class FaultCounter:
    """Counts requests, so that faults end after the first ``times``."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def next_faults(
        self, path: str, query: dict[str, str], *, within_file: bool = False
    ) -> tuple[Faults, int]:
        """Return the faults of this request, and the number of earlier requests of its path and token.

        *within_file*: whether the request is for a range that does not start at byte 0.
        """
        requested, key = Faults.from_query(query), (path, query.get("token", ""))
        if requested.parts and not within_file:
            return replace(NO_FAULTS, rate=requested.rate), 0
        index = self._counts[key]
        self._counts[key] += 1
        if requested.times and index >= requested.times:
            # ``media_host`` is a property of the page, and ``rate`` of all parts: neither ends.
            rate = requested.rate if requested.parts else 0
            return replace(NO_FAULTS, media_host=requested.media_host, rate=rate), index
        return requested, index


def media_query(query: dict[str, str]) -> str:
    """Return the query, with its ``?``, of the media files that a page or playlist with *query* links to."""
    return _encode({k.removeprefix(MEDIA_PREFIX): v for k, v in query.items() if k.startswith(MEDIA_PREFIX)})


def playlist_query(query: dict[str, str]) -> str:
    """Return the query, with its ``?``, of the playlists that a master playlist with *query* links to."""
    return _encode({k: v for k, v in query.items() if k.startswith(MEDIA_PREFIX) or k == "media_host"})


def _encode(parameters: dict[str, str]) -> str:
    return f"?{urlencode(parameters)}" if parameters else ""


def _parse(kind: type, value: str) -> Any:
    return value not in ("", "0", "no") if kind is bool else kind(value)
