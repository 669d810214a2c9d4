"""Titles are data: whatever a site calls its video, files have safe names and lie where they should."""

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

# Where storage keeps bytes by their digests, and the broker its files.
_OF_SERVICES = ("artifacts", "nats")


class Titled(Site):
    """A site whose pages are called as asked."""

    async def respond(self, request: Request) -> Response:
        """The page ``/titled/<which>``, or what any site has."""
        if not request.path.startswith("/titled/"):
            return await super().respond(request)
        title = list(TITLES.values())[int(request.path.rpartition("/")[2])]
        video = {"@type": "VideoObject", "name": title, "contentUrl": self.url("/media/360.mp4")}
        told = json.dumps({"@context": "https://schema.org", **video}).replace("<", "\\u003c")
        page = f'<html><head><script type="application/ld+json">{told}</script></head></html>'
        return Response(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


@pytest.fixture(scope="module")
def titled() -> Iterator[Site]:
    """Such a site."""
    site = Titled(ensure_media())
    with serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="titled"):
        yield site


def test_hostile_titles(suite: Suite, titled: Site) -> None:
    """Each is kept as the title it is, and served under a name that no system stumbles over."""
    before = _paths(suite)
    jobs = [create_download(suite, titled.url(f"/titled/{number}")) for number in range(len(TITLES))]
    names = set()
    for job, title in zip(jobs, TITLES.values(), strict=True):
        last = wait_for_end(suite, job, seconds=100)
        assert "completed" in last, (title, last)
        download = last["completed"]
        assert _words(download["title"]) == _words(title)
        name = download["files"][0]["name"]
        assert _is_safe(name), (title, name)
        answer = suite.http.get(download["files"][0]["url"])
        assert _served_as(answer.headers.get_list("content-disposition")) == name
        assert "set-cookie" not in answer.headers
        names.add(name)
    assert {"video.mp4.exe.mp4", "video.desktop.mp4", "invoiceexe.4pm.mp4"} <= names
    assert "$(touch reelhaul-escape) `id` ; rm -rf . _ cat && $HOME.mp4" in names

    strayed = {path for path in _paths(suite) - before if path.parts[0] not in _OF_SERVICES}
    assert not strayed
    assert not list(Path("/tmp").glob("reelhaul-escape*"))


def _words(title: str) -> str:
    """*title* but for white space and what no text has: the site's HTML is allowed to lose these."""
    return re.sub(r"[\s\x00]+", "", title)[:60]


def _is_safe(name: str) -> bool:
    """Whether every system takes *name* for one visible file, of the kind that it is."""
    stem = name.removesuffix(".mp4")
    plain = not re.search(r'[<>:"/\\|?*]', name) and not any(unicodedata.category(c)[0] == "C" for c in name)
    return bool(stem.strip(" .")) and name.endswith(".mp4") and plain and len(name.encode()) <= 200


def _served_as(headers: list[str]) -> str:
    """The name that the one *headers* gives (RFC 6266), which is plain ASCII and has one of each."""
    (header,) = headers
    assert header.isascii()
    found = re.fullmatch(r"(?:inline|attachment); filename=\"[^\"\\]+\"; filename\*=UTF-8''([^;\"]+)", header)
    assert found, header
    return unquote(found[1])


def _paths(suite: Suite) -> set[Path]:
    """All that lies in the suite's folder and beside it, but for databases' journals and logs."""
    kept = {path.relative_to(suite.data_dir) for path in suite.data_dir.rglob("*")}
    beside = {Path("..", path.name) for path in suite.data_dir.parent.iterdir()}
    return {path for path in kept | beside if not path.name.endswith(("-wal", "-shm", "-journal", ".log"))}
