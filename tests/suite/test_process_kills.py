"""kill -9 of one process under ``reelhaul up``: the job ends well all the same, once, and leaves nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_until_downloading, watch_download
from tests.suite.suite import running_suite

# Slow enough to be in the middle of it, over before patience ends.
_RATE = 1_200_000


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", ["fetcher", "jobs", "nats"])
def test_download_survives(site: Site, tmp_path: Path, victim: str) -> None:
    """A download whose *victim* is killed in the middle of it succeeds, once, with the right file."""
    with running_suite(tmp_path / "data") as suite:
        job = create_download(
            suite, site.url(f"/watch/demo?media.rate={_RATE}"), quality="1080p", format="mp4"
        )
        wait_until_downloading(suite, job, 500_000)
        killed = suite.kill(victim)
        suite.wait_for_restart(victim, killed)

        told = list(watch_download(suite, job, seconds=120))
        assert "completed" in told[-1], told[-1]
        completed = told[-1]["completed"]
        body = suite.http.get(completed["files"][0]["url"]).content
        assert hashlib.sha256(body).hexdigest() == site.digest("/media/1080.mp4")

        attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
        assert [attempt["state"] for attempt in attempts].count("SUCCEEDED") == 1

        # Watched again from the start: the end is the one that was told, and there is no other.
        again = list(watch_download(suite, job))
        assert again[-1]["completed"] == completed
        work = suite.data_dir / "work"
        suite.wait_for("empty work folder", lambda: not work.exists() or not any(work.iterdir()))
