"""When disk space is short, downloads wait for it and none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end, watch_download
from tests.suite.suite import Suite, running_suite

from reelhaul.cli.commands import reelhaul

_QUOTA, _PAUSE, _RESERVE = 9_000_000, 2_000_000, 1_000_000


@pytest.fixture(scope="module")
def small_disk_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose work folder has space for one and a half of the site's largest files."""
    with running_suite(
        tmp_path_factory.mktemp("small-disk") / "data",
        fetcher_disk_quota_bytes=str(_QUOTA),
        fetcher_disk_pause_bytes=str(_PAUSE),
        fetcher_disk_reserve_bytes=str(_RESERVE),
    ) as suite:
        yield suite


def _disk_status(suite: Suite) -> str:
    """Return the status of the fetcher's disk in the health report."""
    report = suite.http.get("/health/detailed").raise_for_status().json()
    statuses = {part["component"]: part.get("status", "") for part in report["components"]}
    return str(statuses["fetcher.disk"])


def test_report_of_storage(small_disk_suite: Suite) -> None:
    """The health report has latency and space of the backend, and whether its bytes are intact."""
    report = small_disk_suite.http.get("/health/detailed").raise_for_status().json()
    components = {part["component"]: part for part in report["components"]}
    backend = components["storage.backend"]
    assert 0 < int(backend["freeBytes"]) < int(backend["totalBytes"])
    assert backend["latency"].endswith("s")
    assert components["storage.integrity"]["status"] == "SERVING_STATUS_SERVING"


def test_job_waits_for_space(small_disk_suite: Suite, site: Site) -> None:
    """While the disk is full a job waits with the reason DISK_FULL; when there is space it is fetched."""
    suite, before = small_disk_suite, site.count("/media/360.mp4")
    ballast = suite.data_dir / "work" / "ballast"
    ballast.write_bytes(b"x" * (_QUOTA - _PAUSE + 100_000))
    suite.wait_for("shortage", lambda: _disk_status(suite) == "SERVING_STATUS_NOT_SERVING")
    assert suite.http.get("/readyz").status_code == 200
    job = create_download(suite, site.url("/media/360.mp4"))

    def waiting() -> dict[str, Any] | None:
        status: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return status if status["wait_reason"] == "DISK_FULL" else None

    status = suite.wait_for("wait reason", waiting)
    assert (status["status"], status["position"]) == ("QUEUED", 1)
    first = next(watch_download(suite, job))
    (listed,) = suite.http.get("/api/v1/jobs", params={"status": "QUEUED"}).json()["jobs"]
    assert (first["snapshot"]["wait_reason"], listed["wait_reason"]) == ("DISK_FULL", "DISK_FULL")
    shown = CliRunner().invoke(reelhaul, ["jobs", "show", job, "--server", suite.address("gateway")])
    assert "QUEUED (disk full)" in shown.stdout
    assert site.count("/media/360.mp4") == before
    ballast.unlink()
    assert "completed" in wait_for_end(suite, job, seconds=60)
    suite.wait_for("end of the shortage", lambda: _disk_status(suite) == "SERVING_STATUS_SERVING")
    assert "short of disk space; no work is taken" in suite.log.read_text()


def test_newer_download_is_released(small_disk_suite: Suite, site: Site) -> None:
    """Of two downloads that do not fit together, the newer one is released and succeeds later."""
    suite, url = small_disk_suite, "/media/1080.mp4?rate=1500000&token="
    jobs = [create_download(suite, site.url(f"{url}{number}")) for number in range(2)]
    for job in jobs:
        assert "completed" in wait_for_end(suite, job, seconds=90)
    states = []
    for job in jobs:
        attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
        states.append([attempt["state"] for attempt in attempts])
    assert sorted(len(job_states) for job_states in states) == [1, 2]
    assert sorted(state for job_states in states for state in job_states) == [
        "RELEASED",
        "SUCCEEDED",
        "SUCCEEDED",
    ]
