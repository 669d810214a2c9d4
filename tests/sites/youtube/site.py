"""A YouTube of our own: yt-dlp's unpatched extractor finds in it all that it looks for, and no way out.

Reach it as a proxy at ``proxy_url``, trusting ``ca_file``; ask for videos of the catalogue by their names.
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

from tests.sites.background import in_background
from tests.sites.http import Answer, Request
from tests.sites.youtube import lists
from tests.sites.youtube.catalogue import find, named
from tests.sites.youtube.formats import streams
from tests.sites.youtube.library import Library
from tests.sites.youtube.player import HANDLE
from tests.sites.youtube.proxy import Gate
from tests.sites.youtube.routes import Routes, video_asked


@dataclass(frozen=True)
class Asked:
    """One request, as tests count them."""

    host: str
    method: str
    path: str
    #: The name of the video that it is about; empty: none.
    video: str
    #: The Range header or ``range`` parameter; empty: none.
    range: str


class YouTube:
    """The stand-in, and what was asked of it. Read ``proxy_url`` when it runs."""

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or Library()
        self._routes = Routes(self._library)
        self._gate = Gate(self._respond, self._told)
        #: E.g. ``http://127.0.0.1:40321``.
        self.proxy_url = ""
        #: Holds the certificate to trust, as PEM.
        self.ca_file = Path()
        #: Every request so far, the oldest first.
        self.requests: list[Asked] = []

    @property
    def refused(self) -> list[str]:
        """What was asked for beyond YouTube: empty where nothing leaked."""
        return self._gate.refused

    def watch_url(self, name: str, copy: int = 0) -> str:
        """The page of the video called *name* in the catalogue, or of a *copy* whose faults have not passed.

        Makes its media. Raises KeyError.
        """
        video = named(name, copy)
        with ThreadPoolExecutor(2) as encoders:
            for _ in encoders.map(lambda made: self._library.file(*made), streams(video)):
                pass
        return f"https://www.youtube.com/watch?v={video.id}"

    def playlist_url(self, count: int) -> str:
        """The page of a playlist of *count* items."""
        return f"https://www.youtube.com/playlist?list={lists.playlist_id(count)}"

    def channel_url(self, tab: str = "") -> str:
        """The page of the channel, or of one of its tabs: ``videos``, ``shorts`` or ``streams``."""
        return f"https://www.youtube.com/{HANDLE}{f'/{tab}' if tab else ''}"

    def file(self, name: str, itag: int, language: str = "") -> Path:
        """The file of a stream; *language* is that of its sound, the original where empty."""
        video = named(name)
        spoken = language or video.languages[0]
        wanted = (made for made in streams(video) if (made[0].itag, made[2]) == (itag, spoken))
        return self._library.file(*next(wanted))

    def digest(self, name: str, itag: int, language: str = "") -> str:
        """SHA-256 in hex of a stream's file."""
        return self._library.digest(self.file(name, itag, language))

    def count(self, path: str, video: str = "") -> int:
        """How often *path* was asked for, of one video or of all."""
        return sum(asked.path == path and video in ("", asked.video) for asked in self.requests)

    async def start(self, host: str, port: int = 0) -> asyncio.Server:
        """Serve on *host*, on a free port where *port* is 0; sets ``proxy_url``."""
        server = await asyncio.start_server(self._gate.connected, host, port)
        self.proxy_url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        return server

    def write_ca(self, path: Path) -> None:
        """Put the certificate to trust into *path*."""
        path.write_bytes(self._gate.certificate)
        self.ca_file = path

    async def _respond(self, host: str, request: Request) -> Answer:
        video = find(video_asked(request))
        part = request.query.get("range") or request.headers.get("range", "")
        name = video.name if video else ""
        self.requests.append(Asked(host, request.method, request.path, name, part))
        return await self._routes.respond(host, request)

    async def _told(self, _: Request) -> Answer:
        counts = Counter(asked.path for asked in self.requests)
        told = {"requests": [asdict(asked) for asked in self.requests], "counts": counts}
        return Answer(200, json.dumps({**told, "refused": self.refused}).encode())


@contextmanager
def running_youtube(host: str = "127.0.0.1", port: int = 0) -> Iterator[YouTube]:
    """A YouTube on a loop and thread of its own, for as long as the block lasts."""
    youtube = YouTube()
    with tempfile.TemporaryDirectory(prefix="youtube-") as folder:
        youtube.write_ca(Path(folder) / "ca.pem")
        with in_background(lambda: youtube.start(host, port), name=f"youtube {host}"):
            yield youtube
