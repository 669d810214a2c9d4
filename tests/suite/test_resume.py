"""After a crash of everything, a download goes on where it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tests.scrapes import scrape, total
from tests.sites.media import Media
from tests.sites.site import Site, running_site
from tests.suite.downloads import create_download, wait_for_end, wait_until_downloading
from tests.suite.suite import Suite, running_suite

_SIZE = 200_000_000
# Bytes per second of each connection: the download can be interrupted in time.
_RATE = 25_000_000
_PATH = "/media/large.mp4"
_SETTINGS = {"jobs_lease_seconds": "5", "fetcher_connections": "1"}


def _create_media(folder: Path, site: Site) -> Media:
    """Return media of one file of 200 MB: a video with random bytes behind it that no player reads."""
    video = site.media.file("/media/1080.mp4").read_bytes()
    filling = os.urandom(_SIZE - len(video) - 8)
    content = video + (len(filling) + 8).to_bytes(4) + b"free" + filling
    media = Media(folder, {_PATH: hashlib.sha256(content).hexdigest()})
    media.file(_PATH).parent.mkdir(parents=True)
    media.file(_PATH).write_bytes(content)
    return media


def _crash_at_80_percent(data_dir: Path, url: str) -> str:
    """Kill all processes of a suite within the download of *url*; return the job."""
    with running_suite(data_dir, **_SETTINGS) as suite:
        job = create_download(suite, url)
        wait_until_downloading(suite, job, _SIZE * 8 // 10)
        suite.crash()
    return job


def _digest_of_result(suite: Suite, job: str) -> str:
    end = wait_for_end(suite, job, 120)
    assert "completed" in end, end
    body = suite.http.get(end["completed"]["files"][0]["url"]).content
    return hashlib.sha256(body).hexdigest()


def test_crash_of_everything(site: Site, tmp_path: Path) -> None:
    """After SIGKILL of all processes at 80 %, the site sends less than a third again; the file is right."""
    with running_site(media=_create_media(tmp_path / "site", site)) as large:
        job = _crash_at_80_percent(tmp_path / "data", large.url(f"{_PATH}?rate={_RATE}"))
        before = len(large.requests)
        with running_suite(tmp_path / "data", **_SETTINGS) as suite:
            assert _digest_of_result(suite, job) == large.digest(_PATH)
            # Those of the download, without the extractor's look at the URL.
            ranges = [r.headers["range"] for r in large.requests[before:] if "if-range" in r.headers]
            starts = [int(value.removeprefix("bytes=").partition("-")[0]) for value in ranges]
            assert 0 < _SIZE - min(starts) < _SIZE / 3
            assert len(large.requests[before:]) == len(ranges) + 1
            samples = scrape(suite.metrics_url("fetcher"))
            resumed = total(samples, "reelhaul_fetch_resumed_bytes_total")
            # The last bytes before the gap are compared.
            assert 0 <= resumed - min(starts) <= 64 * 1024
            suite.wait_for("empty work folder", lambda: not any((suite.data_dir / "work").iterdir()))


def test_file_that_changed_during_a_crash(site: Site, tmp_path: Path) -> None:
    """A file of the same size that the site replaced meanwhile is received from its first byte."""
    with running_site(media=_create_media(tmp_path / "site", site)) as old:
        job = _crash_at_80_percent(tmp_path / "data", old.url(f"{_PATH}?rate={_RATE}"))
    port = int(old.origin.rpartition(":")[2])
    with (
        running_site(port=port, media=_create_media(tmp_path / "new", site)) as new,
        running_suite(tmp_path / "data", **_SETTINGS) as suite,
    ):
        assert _digest_of_result(suite, job) == new.digest(_PATH) != old.digest(_PATH)
