"""``make console-picture``: make docs/pictures/console.png, the picture of the console in the README."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import expect
from tests.chromium import running_chromium
from tests.console.console import Console
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import ensure_media
from tests.sites.site import Site, start_site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import running_suite

_PICTURE = Path(__file__).resolve().parents[2] / "docs/pictures/console.png"
_FINISHED = (
    "Sourdough, step by step",
    "Lecture 12: consensus in distributed systems",
    "Night train to Lisbon",
)
#: Title, and bytes per second of each connection to the site.
_RUNNING = {"The aurora over Tromsø, in real time": 60_000, "How a watch is made": 25_000}


class _TitledSite(Site):
    """A site with a page for each title: ``/titled/<title>?rate=…``."""

    async def respond(self, request: Request) -> Response:
        section, _, title = request.path.lstrip("/").partition("/")
        if section != "titled":
            return await super().respond(request)
        rate = request.query.get("rate", "0")
        content_url = self.url(f"/media/1080.mp4?rate={rate}&token={quote(title)}")
        video = {"@context": "https://schema.org", "@type": "VideoObject", "name": title}
        metadata = json.dumps({**video, "contentUrl": content_url})
        page = f'<html><head><script type="application/ld+json">{metadata}</script></head></html>'
        return Response(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


def main() -> None:
    """Make the picture."""
    site = _TitledSite(ensure_media())
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="site of the picture"),
        running_suite(Path(folder) / "data") as suite,
        running_chromium() as browser,
    ):
        finished = [create_download(suite, site.url(f"/titled/{quote(title)}")) for title in _FINISHED]
        for job in [*finished, create_download(suite, site.url("/watch/nothing"))]:
            wait_for_end(suite, job)
        for title, rate in _RUNNING.items():
            create_download(suite, site.url(f"/titled/{quote(title)}?rate={rate}"))
        create_download(suite, site.url("/watch/demo"), schedule_time="2027-06-01T00:00:00Z")
        console = Console(browser, suite.address("gateway"))
        page = console.open(width=1100)
        for title in _RUNNING:
            expect(console.row(title)).to_contain_text(" left")
        page.set_viewport_size({"width": 1100, "height": 780})
        page.screenshot(path=_PICTURE)
        console.close()
    print(_PICTURE)


if __name__ == "__main__":
    sys.exit(main())
