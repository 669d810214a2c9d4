"""The web console over HTTP: its page at / and the files that the page loads at /console/.

The files are built from services/gateway/console by ``make console``. They contain nothing secret and are the
same for everyone: what the console shows comes from the API, by the key that its user enters.
"""

from __future__ import annotations

import asyncio
import importlib.resources

from reelhaul_gateway.static_files import StaticFile, reject_method, send_file
from reelhaul_transcoding.errors import RouteNotFound
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter

_PREFIX = "/console/"
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# No script or style is inline, and calls go to this server only. Media may come from anywhere: signed links
# lead to storage, S3 or CloudFront, whose hosts the gateway does not know.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" media-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The names of these files have a hash of their content.
_IMMUTABLE = b"public, max-age=31536000, immutable"
_BEST_COMPRESSION = 9

#: The templates of the paths, for metrics.
PAGE_ROUTE, FILE_ROUTE = "/", "/console/{file}"


def is_console(scope: Scope) -> bool:
    """Return whether the request is for the page of the console, or for one of its files."""
    path: str = scope["path"]
    return path == PAGE_ROUTE or path.startswith(_PREFIX)


def route_of(scope: Scope) -> str:
    """Return the template of the path of a request that ``is_console`` selects."""
    return PAGE_ROUTE if scope["path"] == PAGE_ROUTE else FILE_ROUTE


class ConsoleEndpoints:
    """Serves the requests that ``is_console`` selects, to anyone. The files are read once, and kept."""

    def __init__(self, statuses: StatusWriter) -> None:
        self._statuses = statuses
        self._files: dict[str, StaticFile] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if await reject_method(scope, send, self._statuses):
            return
        async with self._lock:
            if not self._files:
                self._files = await asyncio.to_thread(_load_files)
        path: str = scope["path"]
        file = self._files.get(path)
        if file is None:
            await self._statuses.send_error(send, RouteNotFound(scope["method"], path))
        elif path == PAGE_ROUTE:
            await send_file(scope, send, file, [(b"content-security-policy", _POLICY)])
        else:
            await send_file(scope, send, file, [], cache_control=_IMMUTABLE)


def _load_files() -> dict[str, StaticFile]:
    """Return the files of the console by path."""
    folder = importlib.resources.files("reelhaul_gateway").joinpath("static", "console")
    files = {}
    for entry in folder.iterdir():
        content_type = _TYPES.get(entry.name[entry.name.rindex(".") :])
        if content_type is not None:
            path = PAGE_ROUTE if entry.name == "index.html" else _PREFIX + entry.name
            files[path] = StaticFile.compress(content_type, entry.read_bytes(), _BEST_COMPRESSION)
    return files
