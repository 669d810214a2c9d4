"""After a crash of everything, a download goes on where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end, wait_until_downloading
from tests.suite.suite import running_suite

# Bytes per second of each connection: the download can be interrupted in time.
_RATE = 1_000_000


@pytest.mark.timeout(240)
def test_crash_of_everything(site: Site, tmp_path: Path) -> None:
    """After SIGKILL of all processes at 80 %, the site sends less than a third again; the file is right."""
    path, token = "/media/1080.mp4", "crash-resume"
    size = site.media.file(path).stat().st_size
    url = site.url(f"{path}?token={token}&rate={_RATE}")
    settings = {"jobs_lease_seconds": "5", "fetcher_connections": "1"}
    with running_suite(tmp_path / "data", **settings) as suite:
        job = create_download(suite, url)
        wait_until_downloading(suite, job, size * 8 // 10)
        suite.crash()
    before = len(site.requests)
    with running_suite(tmp_path / "data", **settings) as suite:
        end = wait_for_end(suite, job, 120)
        assert "completed" in end, end
        body = suite.http.get(end["completed"]["files"][0]["url"]).content
        assert hashlib.sha256(body).hexdigest() == site.digest(path)
        # Those of the download, without the extractor's look at the URL.
        ranges = [r.headers["range"] for r in site.requests[before:] if "if-range" in r.headers]
        starts = [int(value.removeprefix("bytes=").partition("-")[0]) for value in ranges]
        assert 0 < size - min(starts) < size / 3
        assert len([r for r in site.requests[before:] if r.path == path]) == len(ranges) + 1
        suite.wait_for("empty work folder", lambda: not any((suite.data_dir / "work").iterdir()))
