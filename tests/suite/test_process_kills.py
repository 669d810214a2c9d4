"""SIGKILL of one process: the job still succeeds, once, and leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_until_downloading, watch_download
from tests.suite.suite import Suite, running_suite

# Bytes per second: the download lasts longer than the restart and ends within the timeout.
_RATE = 1_200_000


@pytest.fixture(scope="module")
def killed_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose processes are killed, one after the other."""
    with running_suite(tmp_path_factory.mktemp("kills") / "data") as suite:
        yield suite


@pytest.mark.parametrize("victim", ["fetcher", "jobs", "nats"])
def test_download_survives(killed_suite: Suite, site: Site, victim: str) -> None:
    """A download during which *victim* is killed succeeds once, with the right file."""
    suite = killed_suite
    suite.wait_until_ready()
    url = site.url(f"/watch/demo?media.rate={_RATE}")
    job = create_download(suite, url, quality="1080p", format="mp4")
    wait_until_downloading(suite, job, 500_000)
    pid = suite.kill(victim)
    suite.wait_for_restart(victim, pid)

    messages = list(watch_download(suite, job, seconds=120))
    assert "completed" in messages[-1], messages[-1]
    completed = messages[-1]["completed"]
    body = suite.http.get(completed["files"][0]["url"]).content
    assert hashlib.sha256(body).hexdigest() == site.digest("/media/1080.mp4")

    attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
    assert [attempt["state"] for attempt in attempts].count("SUCCEEDED") == 1

    # A new watch reports the same end.
    assert list(watch_download(suite, job))[-1]["completed"] == completed
    work = suite.data_dir / "work"
    suite.wait_for("empty work folder", lambda: not work.exists() or not any(work.iterdir()))
