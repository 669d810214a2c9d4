"""How an answer goes wrong, asked for in the query of its URL: ``/media/1080.mp4?reset=2000000&times=1``.

On a page or a manifest, ``media.<fault>`` is passed on to what it links: the page is well, its media is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

#: Query parameters that are no faults: they tell clients and URLs apart, or say where a redirect leads.
NEUTRAL = {"token", "v", "to"}
MEDIA_PREFIX = "media."


@dataclass(frozen=True)
class Faults:
    """What is wrong with one answer; the default is nothing."""

    #: Answer with this status.
    fail: int = 0
    #: Seconds of a Retry-After header, for ``fail``.
    retry_after: int = 0
    #: Only the first so many requests of a path and ``token`` go wrong; 0: all.
    times: int = 0
    #: Seconds until the answer begins.
    delay: float = 0
    #: Never answer.
    hang: bool = False
    #: Reset the connection after so many bytes of body.
    reset: int = 0
    #: Send so many bytes of body, then nothing more.
    stall: int = 0
    #: Bytes per second on this connection; 1 is a slow drip.
    rate: int = 0
    #: ``no``: take no notice of Range.
    ranges: str = ""
    #: Add so much to Content-Length; may be negative.
    length: int = 0
    #: No Content-Length: chunked.
    chunked: bool = False
    #: Another ETag and other bytes, as many, at each request.
    changing: bool = False
    #: Only what is asked from a byte in mid-file goes wrong; but ``rate`` is for all.
    parts: bool = False
    #: From this byte of the file on 100 kB are never sent: an answer ends before them, in good order.
    hole: int = 0
    #: Content-Range tells of bytes so much further on than those that are sent.
    shift: int = 0
    #: Take no notice of If-Range.
    blind: bool = False
    #: Neither ETag nor Last-Modified.
    nameless: bool = False
    #: The media that a page links, or a playlist's segments, are at this origin, e.g. ``http://127.0.0.3:8080``.
    media_host: str = ""

    @classmethod
    def of(cls, query: dict[str, str]) -> Self:
        """The faults that *query* asks for. Raises ValueError for a word that is none."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        asked = {k: v for k, v in query.items() if k not in NEUTRAL and not k.startswith(MEDIA_PREFIX)}
        if unknown := asked.keys() - kinds.keys():
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        parsed: dict[str, Any] = {name: _parsed(kinds[name], value) for name, value in asked.items()}
        return cls(**parsed)


#: Nothing is wrong.
WELL = Faults()


class Turns:
    """Counts requests, so that a fault can end after the first few."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def faults(self, path: str, query: dict[str, str], *, in_mid_file: bool = False) -> tuple[Faults, int]:
        """The faults of this request, and how many came before it with its path and token."""
        asked, key = Faults.of(query), (path, query.get("token", ""))
        if asked.parts and not in_mid_file:
            return replace(WELL, rate=asked.rate), 0
        turn = self._seen[key]
        self._seen[key] += 1
        over = asked.times and turn >= asked.times
        # Where media are is a property of the page, not a mishap that ends; so is how slow all parts are.
        well = replace(WELL, media_host=asked.media_host, rate=asked.rate if asked.parts else 0)
        return (well if over else asked), turn


def for_media(query: dict[str, str]) -> str:
    """The query, with its ``?``, of a file that a page or playlist with *query* links."""
    return _query({k.removeprefix(MEDIA_PREFIX): v for k, v in query.items() if k.startswith(MEDIA_PREFIX)})


def for_playlist(query: dict[str, str]) -> str:
    """The query, with its ``?``, of a playlist that a master playlist with *query* links."""
    passed = {k: v for k, v in query.items() if k.startswith(MEDIA_PREFIX) or k == "media_host"}
    return _query(passed)


def _query(parameters: dict[str, str]) -> str:
    return f"?{urlencode(parameters)}" if parameters else ""


def _parsed(kind: type, value: str) -> Any:
    return value not in ("", "0", "no") if kind is bool else kind(value)
