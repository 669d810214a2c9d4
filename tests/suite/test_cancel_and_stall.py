"""A cancelled download leaves nothing after two seconds, in any stage; a stalled one fails by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.resources import DownloadResources, stopped_ffmpeg, stopped_storage
from tests.suite.suite import Suite, running_suite

_STALL_SECONDS = 3
_CANCEL_SECONDS = 2.0
# A merge that only copies lasts for a twentieth of a second.
_ATTEMPTS = 10


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with a short stall timeout, whose fetcher uploads files to storage."""
    folder = tmp_path_factory.mktemp("stall")
    with running_suite(
        folder / "data",
        fetcher_stall_seconds=str(_STALL_SECONDS),
        # A folder without the fetcher's files, so that storage cannot take them over.
        storage_adopt_dir=str(folder / "nowhere"),
    ) as suite:
        yield suite


@pytest.fixture
def resources(suite: Suite, site: Site) -> DownloadResources:
    """The resources of downloads, of which there are none before the test."""
    resources = DownloadResources(suite, site)
    assert not resources.all()
    return resources


def _nothing_stopped(_: Suite) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.mark.parametrize(
    ("path", "options", "stage", "resource", "stopped_process"),
    [
        ("/watch/jsonld?hang=1", {}, "PROBING", "sockets", _nothing_stopped),
        ("/watch/video?media.rate=400000", {}, "DOWNLOADING", "sockets", _nothing_stopped),
        ("/hls/master.m3u8?media.rate=100000", {}, "DOWNLOADING", "sockets", _nothing_stopped),
        ("/watch/video?media.rate=1", {}, "DOWNLOADING", "sockets", _nothing_stopped),
        ("/hls/master.m3u8", {"format": "webm"}, "POSTPROCESSING", "processes", stopped_ffmpeg),
        ("/media/1080.mp4", {"format": "webm"}, "POSTPROCESSING", "processes", _nothing_stopped),
        ("/media/1080.mp4", {}, "UPLOADING", "files", stopped_storage),
    ],
    ids=["extracting", "downloading", "fragments", "slow drip", "ffmpeg hangs", "transcoding", "uploading"],
)
def test_cancel(
    suite: Suite,
    site: Site,
    resources: DownloadResources,
    path: str,
    options: dict[str, str],
    stage: str,
    resource: str,
    stopped_process: Callable[[Suite], AbstractContextManager[object]],
) -> None:
    """A cancelled download leaves no process, no socket to the site, and no work or staged file."""
    with stopped_process(suite):
        job = create_download(suite, site.url(path), **options)
        suite.wait_for(f"stage {stage}", lambda: _stage(suite, job) == stage)
        suite.wait_for(resource, lambda: resources.all().get(resource))
        begin = time.monotonic()
        suite.http.post(f"/api/v1/cancel/{job}").raise_for_status()
        suite.wait_for("release of all resources", lambda: not resources.all(), seconds=10)
        assert time.monotonic() - begin < _CANCEL_SECONDS
    assert wait_for_end(suite, job, seconds=15)["failed"]["status"] == "CANCELLED"
    assert not resources.all()


@pytest.mark.parametrize("path", ["/hls/master.m3u8", "/dash/manifest.mpd"])
def test_cancel_while_copying(suite: Suite, site: Site, resources: DownloadResources, path: str) -> None:
    """A download that is cancelled while its streams are merged without encoding leaves nothing either."""
    with stopped_ffmpeg(suite) as stopped:
        for number in range(_ATTEMPTS):
            job = create_download(suite, site.url(f"{path}?token={number}"))
            suite.wait_for("merging", lambda: stopped or _status(suite, job) == "SUCCEEDED")  # noqa: B023
            if stopped:
                break
        assert stopped, "each merge ended before it was found"
        suite.wait_for("stage POSTPROCESSING", lambda: _stage(suite, job) == "POSTPROCESSING")
        begin = time.monotonic()
        suite.http.post(f"/api/v1/cancel/{job}").raise_for_status()
        suite.wait_for("release of all resources", lambda: not resources.all(), seconds=10)
        assert time.monotonic() - begin < _CANCEL_SECONDS
    assert wait_for_end(suite, job, seconds=15)["failed"]["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("/watch/video?media.rate=1", "DOWNLOADING"),
        ("/hls/master.m3u8?media.rate=1", "DOWNLOADING"),
        ("/watch/video?media.stall=100000", "DOWNLOADING"),
        ("/watch/jsonld?hang=1", "PROBING"),
        ("/watch/jsonld?rate=1", "PROBING"),
    ],
    ids=["slow drip", "slow fragments", "falls silent", "page hangs", "page drips"],
)
def test_stall(suite: Suite, site: Site, resources: DownloadResources, path: str, stage: str) -> None:
    """A stalled attempt fails with UPSTREAM_STALLED and its stage, and is retried."""
    job = create_download(suite, site.url(path))
    info = _first_error(suite, job)["details"][0]
    assert (info["reason"], info["metadata"]["stage"]) == ("UPSTREAM_STALLED", stage)
    status = suite.http.get(f"/api/v1/status/{job}").json()
    assert status["status"] in ("RETRYING", "QUEUED", "RUNNING")
    suite.http.post(f"/api/v1/cancel/{job}").raise_for_status()
    suite.wait_for("release of all resources", lambda: not resources.all())


def test_ffmpeg_hangs(suite: Suite, site: Site, resources: DownloadResources) -> None:
    """An attempt whose ffmpeg hangs fails; the next one succeeds."""
    with stopped_ffmpeg(suite):
        job = create_download(suite, site.url("/hls/master.m3u8"), format="webm")
        error = _first_error(suite, job)
    assert error["details"][0]["reason"] == "POSTPROCESSING_FAILED"
    assert "did nothing" in error["message"]
    assert "completed" in wait_for_end(suite, job)
    assert not resources.all()


def _status(suite: Suite, job: str) -> str:
    return str(suite.http.get(f"/api/v1/status/{job}").json()["status"])


def _stage(suite: Suite, job: str) -> str:
    return str(suite.http.get(f"/api/v1/status/{job}").json().get("stage", ""))


def _first_error(suite: Suite, job: str) -> dict[str, Any]:
    """Wait for the first failed attempt of *job*; return its error."""

    def error() -> dict[str, Any] | None:
        attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json().get("attempts", [])
        return next((attempt["error"] for attempt in attempts if attempt.get("error")), None)

    return suite.wait_for("failed attempt", error)
