"""The local media site: a video site on a loopback address, with faults on request."""

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
from tests.sites.faults import FaultCounter, Faults
from tests.sites.http import Request, Response, etag, serve_connection, serve_in_thread
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
    """Pages and media of the site, and the requests that it received. ``origin`` is set when it runs."""

    def __init__(self, media: Media) -> None:
        self.media = media
        #: E.g. ``http://127.0.0.2:40321``.
        self.origin = ""
        #: All requests, oldest first, without those for ``/_requests`` and ``/_media``.
        self.requests: list[Request] = []
        self._fault_counter = FaultCounter()
        self._files: dict[str, bytes] = {}

    def url(self, path: str) -> str:
        """Return the absolute URL of *path*, which may have a query."""
        return f"{self.origin}{path}"

    def digest(self, path: str) -> str:
        """Return the SHA-256 in hex of the file at *path*, e.g. ``/media/1080.mp4``."""
        return self.media.digests[path]

    def count(self, path: str) -> int:
        """Return the number of requests for *path*."""
        return sum(request.path == path for request in self.requests)

    async def respond(self, request: Request) -> Response:
        """Return the response to *request*."""
        if request.path == "/_requests":
            return self._list_requests()
        if request.path == "/_media":
            return _json(self.media.digests)
        self.requests.append(request)
        within_file = not request.headers.get("range", "bytes=0-").startswith("bytes=0-")
        try:
            faults, index = self._fault_counter.next_faults(
                request.path, request.query, within_file=within_file
            )
        except ValueError as error:
            return _text(400, str(error))
        if faults.fail:
            headers = {"Retry-After": str(faults.retry_after)} if faults.retry_after else {}
            return replace(
                _text(faults.fail, f"fails with {faults.fail} as requested", headers), faults=faults
            )
        response = replace(_apply_changing(self._content(request), faults, index), faults=faults)
        return _without_validators(response) if faults.nameless else response

    def _content(self, request: Request) -> Response:
        section, _, name = request.path.lstrip("/").partition("/")
        if section == "redirect":
            return self._redirect(name, request.query)
        if section == "watch":
            text = pages.render_page(name, self.origin, request.query)
            return _text(200, text, html=True) if text is not None else _text(404, "no such page")
        if request.path not in self.media.digests:
            return _text(404, "no such file")
        return self._file(request)

    def _file(self, request: Request) -> Response:
        path, suffix = request.path, request.path[request.path.rindex(".") :]
        if path not in self._files:
            self._files[path] = self.media.file(path).read_bytes()
        body, media_type = self._files[path], _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or ""
        if suffix == ".m3u8":
            body = pages.rewrite_playlist(path, body.decode(), request.query).encode()
        elif suffix == ".mpd":
            body = pages.rewrite_manifest(path, body.decode(), request.query).encode()
        tag = etag(self.digest(path))
        return Response(200, body, {"Content-Type": media_type, "ETag": tag, "Last-Modified": _LAST_MODIFIED})

    def _redirect(self, name: str, query: dict[str, str]) -> Response:
        """Redirect ``/redirect/<hops>?to=<URL>`` in that number of hops, ``/redirect/loop`` to itself."""
        to = query.get("to", "/watch/demo")
        if name == "loop":
            target = "/redirect/loop"
        elif (hops := int(name)) > 1:
            target = f"/redirect/{hops - 1}?{urlencode({'to': to})}"
        else:
            target = to
        return Response(302, b"", {"Location": target})

    def _list_requests(self) -> Response:
        keys = ("range", "host", "user-agent")
        requests = [
            {"method": r.method, "path": r.path, "query": r.query}
            | {key: r.headers[key] for key in keys if key in r.headers}
            for r in self.requests
        ]
        return _json({"requests": requests, "counts": Counter(r.path for r in self.requests)})


async def start_site(site: Site, host: str, port: int = 0) -> asyncio.Server:
    """Serve *site* on *host* and *port* (0: any free one) and set its origin; return the server."""

    async def handle_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_connection(site.respond, reader, writer)

    server = await asyncio.start_server(handle_connection, host, port)
    site.origin = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    return server


@contextmanager
def running_site(host: str = "127.0.0.2", port: int = 0, media: Media | None = None) -> Iterator[Site]:
    """Run a site in a thread until the block ends."""
    site = Site(media or site_media.ensure_media())
    with serve_in_thread(lambda: start_site(site, host, port), name=f"site {host}"):
        yield site


def _apply_changing(response: Response, faults: Faults, index: int) -> Response:
    """Return *response* as another version of the file, of the same size, if the fault is ``changing``."""
    if not faults.changing or response.status != 200:
        return response
    # The first version differs from the file too: when the fault ends, the content changes once more.
    table = bytes(byte ^ (index % 255 + 1) for byte in range(256))
    headers = {**response.headers, "ETag": f'"version-{index}"'}
    return replace(response, body=response.body.translate(table), headers=headers)


def _without_validators(response: Response) -> Response:
    """Return *response* without ETag and Last-Modified; ranges are still supported."""
    headers = {
        name: value for name, value in response.headers.items() if name not in ("ETag", "Last-Modified")
    }
    return replace(response, headers={**headers, "Accept-Ranges": "bytes"})


def _json(value: object) -> Response:
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _text(status: int, text: str, headers: dict[str, str] | None = None, *, html: bool = False) -> Response:
    media_type = f"text/{'html' if html else 'plain'}; charset=utf-8"
    return Response(status, text.encode(), {"Content-Type": media_type, **(headers or {})})
