"""The local media site: a whole video site on a loopback address, which can misbehave when asked."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlencode

from tests.sites import media as site_media
from tests.sites import pages
from tests.sites.background import in_background
from tests.sites.faults import Faults, Turns
from tests.sites.http import Answer, Request, etag, serve_connection
from tests.sites.media import Media

_LAST_MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"
_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mpd": "application/dash+xml",
    ".m4s": "video/iso.segment",
    ".ts": "video/mp2t",
    ".vtt": "text/vtt; charset=utf-8",
}


class Site:
    """What the site shows and what was asked of it. Read ``origin`` when it runs."""

    def __init__(self, media: Media) -> None:
        self.media = media
        #: E.g. ``http://127.0.0.2:40321``.
        self.origin = ""
        #: Every request so far, the oldest first; the site's own ``/_…`` pages are not counted.
        self.requests: list[Request] = []
        self._turns = Turns()
        self._files: dict[str, bytes] = {}

    def url(self, path: str) -> str:
        """The absolute URL of *path*, with its query."""
        return f"{self.origin}{path}"

    def digest(self, path: str) -> str:
        """SHA-256 in hex of the file at *path*, e.g. ``/media/1080.mp4``."""
        return self.media.digests[path]

    def count(self, path: str) -> int:
        """How often *path* was asked for."""
        return sum(request.path == path for request in self.requests)

    async def respond(self, request: Request) -> Answer:
        """What to answer to *request*."""
        if request.path == "/_requests":
            return self._told()
        if request.path == "/_media":
            return _json(self.media.digests)
        self.requests.append(request)
        in_mid_file = not request.headers.get("range", "bytes=0-").startswith("bytes=0-")
        try:
            faults, turn = self._turns.faults(request.path, request.query, in_mid_file=in_mid_file)
        except ValueError as error:
            return _text(400, str(error))
        if faults.fail:
            wait = {"Retry-After": str(faults.retry_after)} if faults.retry_after else {}
            return replace(_text(faults.fail, f"asked to fail with {faults.fail}", wait), faults=faults)
        answer = replace(_changed(self._content(request), faults, turn), faults=faults)
        return _nameless(answer) if faults.nameless else answer

    def _content(self, request: Request) -> Answer:
        section, _, name = request.path.lstrip("/").partition("/")
        if section == "redirect":
            return self._redirect(name, request.query)
        if section == "watch":
            text = pages.page(name, self.origin, request.query)
            return _text(200, text, html=True) if text is not None else _text(404, "no such page")
        if request.path not in self.media.digests:
            return _text(404, "no such file")
        return self._file(request)

    def _file(self, request: Request) -> Answer:
        path, suffix = request.path, request.path[request.path.rindex(".") :]
        if path not in self._files:
            self._files[path] = self.media.file(path).read_bytes()
        body, kind = self._files[path], _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or ""
        if suffix == ".m3u8":
            body = pages.playlist(path, body.decode(), request.query).encode()
        elif suffix == ".mpd":
            body = pages.manifest(path, body.decode(), request.query).encode()
        tag = etag(self.digest(path))
        return Answer(200, body, {"Content-Type": kind, "ETag": tag, "Last-Modified": _LAST_MODIFIED})

    def _redirect(self, name: str, query: dict[str, str]) -> Answer:
        """``/redirect/loop``, or ``/redirect/<hops>?to=<path or URL>``."""
        to = query.get("to", "/watch/demo")
        if name == "loop":
            target = "/redirect/loop"
        elif (hops := int(name)) > 1:
            target = f"/redirect/{hops - 1}?{urlencode({'to': to})}"
        else:
            target = to
        return Answer(302, b"", {"Location": target})

    def _told(self) -> Answer:
        keys = ("range", "host", "user-agent")
        requests = [
            {"method": r.method, "path": r.path, "query": r.query}
            | {key: r.headers[key] for key in keys if key in r.headers}
            for r in self.requests
        ]
        return _json({"requests": requests, "counts": Counter(r.path for r in self.requests)})


async def start(site: Site, host: str, port: int = 0) -> asyncio.Server:
    """Serve *site* on *host*, on a free port where *port* is 0; sets its origin."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_connection(site.respond, reader, writer)

    server = await asyncio.start_server(connected, host, port)
    site.origin = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    return server


@contextmanager
def running_site(host: str = "127.0.0.2", port: int = 0, media: Media | None = None) -> Iterator[Site]:
    """A site on a loop and thread of its own, for as long as the block lasts."""
    site = Site(media or site_media.made())
    with in_background(lambda: start(site, host, port), name=f"site {host}"):
        yield site


def _changed(answer: Answer, faults: Faults, turn: int) -> Answer:
    """*answer* as another version of the same size, where the fault is that the file changes."""
    if not faults.changing or answer.status != 200:
        return answer
    # From the first on: where the fault ends, what comes then is another file.
    other = bytes(byte ^ (turn % 255 + 1) for byte in range(256))
    headers = {**answer.headers, "ETag": f'"version-{turn}"'}
    return replace(answer, body=answer.body.translate(other), headers=headers)


def _nameless(answer: Answer) -> Answer:
    """*answer* of a server that does ranges, but does not say by what one file is known from another."""
    kept = {name: value for name, value in answer.headers.items() if name not in ("ETag", "Last-Modified")}
    return replace(answer, headers={**kept, "Accept-Ranges": "bytes"})


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _text(status: int, text: str, headers: dict[str, str] | None = None, *, html: bool = False) -> Answer:
    kind = f"text/{'html' if html else 'plain'}; charset=utf-8"
    return Answer(status, text.encode(), {"Content-Type": kind, **(headers or {})})
