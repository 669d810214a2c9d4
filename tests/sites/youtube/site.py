"""Stand-in for YouTube in which yt-dlp's unpatched extractor finds everything that it looks for.

Use ``proxy_url`` as the proxy and trust ``ca_file``. The videos are those of catalogue.py, by their names.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.youtube import lists
from tests.sites.youtube.catalogue import find_video, get_video
from tests.sites.youtube.formats import streams
from tests.sites.youtube.library import Library
from tests.sites.youtube.player import HANDLE
from tests.sites.youtube.proxy import Proxy
from tests.sites.youtube.routes import Routes, requested_video_id


@dataclass(frozen=True)
class RecordedRequest:
    """A request as tests count it."""

    host: str
    method: str
    path: str
    #: Name of the video that it is about; empty if it is about none.
    video: str
    #: Range header or ``range`` parameter; empty if there is none.
    range: str


class YouTube:
    """The stand-in and the requests that it received. ``proxy_url`` is set when it runs."""

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or Library()
        self._routes = Routes(self._library)
        self._proxy = Proxy(self._respond, self._list_requests)
        #: E.g. ``http://127.0.0.1:40321``.
        self.proxy_url = ""
        #: File with the CA certificate as PEM.
        self.ca_file = Path()
        #: All requests, oldest first.
        self.requests: list[RecordedRequest] = []

    @property
    def refused(self) -> list[str]:
        """Targets of requests to other hosts than YouTube's."""
        return self._proxy.refused

    def watch_url(self, name: str, copy: int = 0) -> str:
        """Return the URL of the video *name* of the catalogue and create its media. Raises KeyError.

        Each *copy* has its own counts of faults that end after some requests.
        """
        video = get_video(name, copy)
        with ThreadPoolExecutor(2) as encoders:
            for _ in encoders.map(lambda stream: self._library.file(*stream), streams(video)):
                pass
        return f"https://www.youtube.com/watch?v={video.id}"

    def playlist_url(self, count: int) -> str:
        """Return the URL of a playlist of *count* items."""
        return f"https://www.youtube.com/playlist?list={lists.playlist_id(count)}"

    def channel_url(self, tab: str = "") -> str:
        """Return the URL of the channel or of a tab of it: ``videos``, ``shorts`` or ``streams``."""
        return f"https://www.youtube.com/{HANDLE}{f'/{tab}' if tab else ''}"

    def file(self, name: str, itag: int, language: str = "") -> Path:
        """Return the file of a stream; *language* of its audio, the original one if empty."""
        video = get_video(name)
        language = language or video.languages[0]
        matches = (stream for stream in streams(video) if (stream[0].itag, stream[2]) == (itag, language))
        return self._library.file(*next(matches))

    def digest(self, name: str, itag: int, language: str = "") -> str:
        """Return the SHA-256 in hex of a stream's file."""
        return self._library.digest(self.file(name, itag, language))

    def count(self, path: str, video: str = "") -> int:
        """Return the number of requests for *path*, about *video* if that is given."""
        return sum(request.path == path and video in ("", request.video) for request in self.requests)

    async def start(self, host: str, port: int = 0) -> asyncio.Server:
        """Serve on *host* and *port* (0: any free one) and set ``proxy_url``; return the server."""
        server = await asyncio.start_server(self._proxy.handle_connection, host, port)
        self.proxy_url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        return server

    def write_ca(self, path: Path) -> None:
        """Write the CA certificate to *path* and set ``ca_file``."""
        path.write_bytes(self._proxy.certificate)
        self.ca_file = path

    async def _respond(self, host: str, request: Request) -> Response:
        video = find_video(requested_video_id(request))
        byte_range = request.query.get("range") or request.headers.get("range", "")
        name = video.name if video else ""
        self.requests.append(RecordedRequest(host, request.method, request.path, name, byte_range))
        return await self._routes.respond(host, request)

    async def _list_requests(self, _: Request) -> Response:
        body = {
            "requests": [asdict(request) for request in self.requests],
            "counts": Counter(request.path for request in self.requests),
            "refused": self.refused,
        }
        return Response(200, json.dumps(body).encode())


@contextmanager
def running_youtube(host: str = "127.0.0.1", port: int = 0) -> Iterator[YouTube]:
    """Run the stand-in in a thread until the block ends."""
    youtube = YouTube()
    with tempfile.TemporaryDirectory(prefix="youtube-") as folder:
        youtube.write_ca(Path(folder) / "ca.pem")
        with serve_in_thread(lambda: youtube.start(host, port), name=f"youtube {host}"):
            yield youtube
