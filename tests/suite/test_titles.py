"""Hostile video titles: files get safe names and stay in their folders."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import ensure_media
from tests.sites.site import Site, start_site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite

TITLES = {
    "long": "long " * 60,
    "long, of many bytes": "影片" * 150,
    "right to left": "invoice\u202eexe.4pm",
    "slashes": "a/b\\c",
    "parents": "../../../../../../tmp/reelhaul-escape",
    "absolute": "/tmp/reelhaul-escape",
    "home": "~/reelhaul-escape",
    "shell": "$(touch reelhaul-escape) `id` ; rm -rf . | cat && $HOME",
    "newlines": "one\r\nSet-Cookie: owned=1\r\n\r\n<script>",
    "extension": "video.mp4.exe",
    "shortcut": "video.desktop",
    "nul": "before\x00after",
    "template": "%(id)s %(title)s {title} %s",
    "quotes": '"; filename="evil.exe" \'x\'',
    "emoji": "👩‍👩‍👧 family 🎬",
    "device": "CON",
    "nothing": " . . ",
    "flag": "-rf --exec id",
}

# Folders of storage, which names files by digest, and of the broker.
_SERVICE_FOLDERS = ("artifacts", "nats")


class TitleSite(Site):
    """A site with a page for each title."""

    async def respond(self, request: Request) -> Response:
        """Return the page ``/titled/<index>``, or what any site has."""
        if not request.path.startswith("/titled/"):
            return await super().respond(request)
        title = list(TITLES.values())[int(request.path.rpartition("/")[2])]
        video = {"@type": "VideoObject", "name": title, "contentUrl": self.url("/media/360.mp4")}
        metadata = json.dumps({"@context": "https://schema.org", **video}).replace("<", "\\u003c")
        page = f'<html><head><script type="application/ld+json">{metadata}</script></head></html>'
        return Response(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


@pytest.fixture(scope="module")
def title_site() -> Iterator[Site]:
    """A running site."""
    site = TitleSite(ensure_media())
    with serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="titles"):
        yield site


def test_hostile_titles(suite: Suite, title_site: Site) -> None:
    """The title is kept, and the file is served under a name that is safe on every system."""
    before = _paths(suite)
    jobs = [create_download(suite, title_site.url(f"/titled/{number}")) for number in range(len(TITLES))]
    names = set()
    for job, title in zip(jobs, TITLES.values(), strict=True):
        last = wait_for_end(suite, job, seconds=100)
        assert "completed" in last, (title, last)
        download = last["completed"]
        assert _normalized(download["title"]) == _normalized(title)
        name = download["files"][0]["name"]
        assert _is_safe(name), (title, name)
        response = suite.http.get(download["files"][0]["url"])
        assert _content_disposition_name(response.headers.get_list("content-disposition")) == name
        assert "set-cookie" not in response.headers
        names.add(name)
    assert {"video.mp4.exe.mp4", "video.desktop.mp4", "invoiceexe.4pm.mp4"} <= names
    assert "$(touch reelhaul-escape) `id` ; rm -rf . _ cat && $HOME.mp4" in names

    escaped = {path for path in _paths(suite) - before if path.parts[0] not in _SERVICE_FOLDERS}
    assert not escaped
    assert not list(Path("/tmp").glob("reelhaul-escape*"))


def _normalized(title: str) -> str:
    """Return *title* without white space and NUL, which the site's HTML may lose."""
    return re.sub(r"[\s\x00]+", "", title)[:60]


def _is_safe(name: str) -> bool:
    """Return whether *name* is a visible mp4 file on every system."""
    stem = name.removesuffix(".mp4")
    has_control = any(unicodedata.category(character)[0] == "C" for character in name)
    is_plain = not re.search(r'[<>:"/\\|?*]', name) and not has_control
    return bool(stem.strip(" .")) and name.endswith(".mp4") and is_plain and len(name.encode()) <= 200


def _content_disposition_name(headers: list[str]) -> str:
    """Return the file name in the only Content-Disposition header (RFC 6266), which must be ASCII."""
    (header,) = headers
    assert header.isascii()
    match = re.fullmatch(r"(?:inline|attachment); filename=\"[^\"\\]+\"; filename\*=UTF-8''([^;\"]+)", header)
    assert match, header
    return unquote(match[1])


def _paths(suite: Suite) -> set[Path]:
    """Return all paths in the suite's folder and its parent, without database journals and logs."""
    inside = {path.relative_to(suite.data_dir) for path in suite.data_dir.rglob("*")}
    siblings = {Path("..", path.name) for path in suite.data_dir.parent.iterdir()}
    return {
        path for path in inside | siblings if not path.name.endswith(("-wal", "-shm", "-journal", ".log"))
    }
