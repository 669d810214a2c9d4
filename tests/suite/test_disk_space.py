"""Where disk space is short, downloads wait for it and none is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite, running_suite

_QUOTA, _PAUSE, _RESERVE = 9_000_000, 2_000_000, 1_000_000


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose work folders hold one and a half of the site's largest files."""
    with running_suite(
        tmp_path_factory.mktemp("narrow") / "data",
        fetcher_disk_quota_bytes=str(_QUOTA),
        fetcher_disk_pause_bytes=str(_PAUSE),
        fetcher_disk_reserve_bytes=str(_RESERVE),
    ) as suite:
        yield suite


def _disk(suite: Suite) -> str:
    """What health says of the fetcher's disk."""
    report = suite.http.get("/health/detailed").raise_for_status().json()
    parts = {part["component"]: part.get("status", "") for part in report["components"]}
    return str(parts["fetcher.disk"])


def test_work_waits_for_space(narrow: Suite, site: Site) -> None:
    """While something fills the place jobs are taken and wait; health says why; then they are fetched."""
    before = site.count("/media/360.mp4")
    ballast = narrow.data_dir / "work" / "ballast"
    ballast.write_bytes(b"x" * (_QUOTA - _PAUSE + 100_000))
    narrow.wait_for("shortage", lambda: _disk(narrow) == "SERVING_STATUS_NOT_SERVING")
    assert narrow.http.get("/readyz").status_code == 200
    job = create_download(narrow, site.url("/media/360.mp4"))
    # Longer than a worker with space would leave it in the queue.
    with pytest.raises(Exception, match="no start"):
        narrow.wait_for("start", lambda: site.count("/media/360.mp4") > before, seconds=3)
    told = narrow.http.get(f"/api/v1/status/{job}").json()
    assert (told["status"], told["wait_reason"], told["position"]) == ("QUEUED", "DISK_FULL", 1)
    ballast.unlink()
    assert "completed" in wait_for_end(narrow, job, seconds=60)
    assert _disk(narrow) == "SERVING_STATUS_SERVING"
    assert "short of disk space; no work is taken" in narrow.log.read_text()


def test_two_that_do_not_fit_together(narrow: Suite, site: Site) -> None:
    """The one that began first ends well, the other is handed back, uncharged, and ends well later."""
    url = "/media/1080.mp4?rate=1500000&token="
    jobs = [create_download(narrow, site.url(f"{url}{number}")) for number in range(2)]
    for job in jobs:
        assert "completed" in wait_for_end(narrow, job, seconds=90)
    states = []
    for job in jobs:
        attempts = narrow.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json()["attempts"]
        states.append([attempt["state"] for attempt in attempts])
    assert sorted(len(each) for each in states) == [1, 2]
    assert sorted(state for each in states for state in each) == ["RELEASED", "SUCCEEDED", "SUCCEEDED"]
