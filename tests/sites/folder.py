"""A site that serves the files of a folder, with ranges: manifests and media that a test writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tests.sites.http import Request, Response, etag, serve_connection, serve_in_thread

_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mpd": "application/dash+xml",
    ".html": "text/html; charset=utf-8",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".ts": "video/mp2t",
    ".m4s": "video/iso.segment",
}


class FolderSite:
    """Serves *folder*, and the texts of ``pages`` by path. ``origin`` is set when it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin = folder, ""
        self.pages: dict[str, str] = {}
        #: Paths for which Range is ignored.
        self.without_ranges: set[str] = set()
        #: All requests, oldest first.
        self.requests: list[Request] = []

    def url(self, path: str) -> str:
        """Return the absolute URL of *path*."""
        return f"{self.origin}{path}"

    def count(self, path: str) -> int:
        """Return the number of GET requests for *path*."""
        return sum(request.path == path and request.method == "GET" for request in self.requests)

    async def respond(self, request: Request) -> Response:
        """Return the response to *request*."""
        self.requests.append(request)
        media_type = _TYPES.get(Path(request.path).suffix, "application/octet-stream")
        if request.path in self.pages:
            return Response(200, self.pages[request.path].encode(), {"Content-Type": media_type})
        file = self.folder / request.path.lstrip("/")
        if not file.is_file():
            return Response(404, b"no such file", {"Content-Type": "text/plain"})
        body = file.read_bytes()
        headers = {"Content-Type": media_type}
        if request.path not in self.without_ranges:
            headers["ETag"] = etag(sha256(body).hexdigest())
        return Response(200, body, headers)


@contextmanager
def running_folder_site(folder: Path, host: str = "127.0.0.2") -> Iterator[FolderSite]:
    """Serve *folder* in a thread until the block ends."""
    site = FolderSite(folder)

    async def start() -> asyncio.Server:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve_connection(site.respond, reader, writer)

        server = await asyncio.start_server(handle, host, 0)
        site.origin = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        return server

    with serve_in_thread(start, name="folder site"):
        yield site
