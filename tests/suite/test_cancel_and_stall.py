"""Cancelled in any stage, a download is gone from the world two seconds later; stalled, it ends by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.resources import DownloadResources, stopped_ffmpeg
from tests.suite.suite import Suite, running_suite

_STALL_SECONDS = 3
_STOPPED_WITHIN = 2.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that soon has enough of what does not move, and whose files are sent to storage."""
    place = tmp_path_factory.mktemp("impatient")
    with running_suite(
        place / "data",
        fetcher_stall_seconds=str(_STALL_SECONDS),
        storage_adopt_dir=str(place / "nowhere"),
    ) as suite:
        yield suite


@pytest.fixture
def traces(impatient: Suite, site: Site) -> DownloadResources:
    """What attempts leave; nothing, before the test."""
    traces = DownloadResources(impatient, site)
    assert not traces.all()
    return traces


@contextmanager
def deaf_storage(suite: Suite) -> Iterator[None]:
    """Within the block, storage hears nothing."""
    pid = suite.pid("storage")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _as_usual(_: Suite) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.mark.parametrize(
    ("path", "wishes", "stage", "sign", "held"),
    [
        ("/watch/jsonld?hang=1", {}, "PROBING", "sockets", _as_usual),
        ("/watch/video?media.rate=400000", {}, "DOWNLOADING", "sockets", _as_usual),
        ("/hls/master.m3u8?media.rate=100000", {}, "DOWNLOADING", "sockets", _as_usual),
        ("/watch/video?media.rate=1", {}, "DOWNLOADING", "sockets", _as_usual),
        ("/hls/master.m3u8", {"format": "mp4"}, "POSTPROCESSING", "processes", stopped_ffmpeg),
        ("/media/1080.mp4", {"format": "webm"}, "POSTPROCESSING", "processes", _as_usual),
        ("/media/1080.mp4", {}, "UPLOADING", "files", deaf_storage),
    ],
    ids=["extracting", "downloading", "fragments", "slow drip", "merging", "transcoding", "uploading"],
)
def test_cancel(
    impatient: Suite,
    site: Site,
    traces: DownloadResources,
    path: str,
    wishes: dict[str, str],
    stage: str,
    sign: str,
    held: Callable[[Suite], AbstractContextManager[None]],
) -> None:
    """Nothing is left of it: no process, no socket at the site, no file at work or staged in storage."""
    with held(impatient):
        job = create_download(impatient, site.url(path), **wishes)
        impatient.wait_for(f"stage {stage}", lambda: _stage(impatient, job) == stage)
        impatient.wait_for(sign, lambda: traces.all().get(sign))
        began = time.monotonic()
        impatient.http.post(f"/api/v1/cancel/{job}").raise_for_status()
        while (left := traces.all()) and time.monotonic() < began + 10:
            time.sleep(0.02)
        took = time.monotonic() - began
    assert not left
    assert took < _STOPPED_WITHIN
    assert wait_for_end(impatient, job, seconds=15)["failed"]["status"] == "CANCELLED"
    assert not traces.all()


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
def test_stall(impatient: Suite, site: Site, traces: DownloadResources, path: str, stage: str) -> None:
    """What does not move ends as UPSTREAM_STALLED, says where, and is to be tried again."""
    job = create_download(impatient, site.url(path))
    error = _first_failure(impatient, job)
    info = error["details"][0]
    assert (info["reason"], info["metadata"]["stage"]) == ("UPSTREAM_STALLED", stage)
    status = impatient.http.get(f"/api/v1/status/{job}").json()
    assert status["status"] in ("RETRYING", "QUEUED", "RUNNING")
    impatient.http.post(f"/api/v1/cancel/{job}").raise_for_status()
    impatient.wait_for("end of all traces", lambda: not traces.all())


def test_ffmpeg_hangs(impatient: Suite, site: Site, traces: DownloadResources) -> None:
    """A merge whose ffmpeg does nothing is given up and tried again: then it goes well."""
    with stopped_ffmpeg(impatient):
        job = create_download(impatient, site.url("/hls/master.m3u8"), format="mp4")
        error = _first_failure(impatient, job)
    assert error["details"][0]["reason"] == "POSTPROCESSING_FAILED"
    assert "did nothing" in error["message"]
    assert "completed" in wait_for_end(impatient, job, seconds=60)
    assert not traces.all()


def _stage(suite: Suite, job: str) -> str:
    return str(suite.http.get(f"/api/v1/status/{job}").json().get("stage", ""))


def _first_failure(suite: Suite, job: str) -> dict[str, Any]:
    """The error of *job*'s first attempt, which fails."""

    def failed() -> dict[str, Any] | None:
        attempts = suite.http.get(f"/v1/jobs/{job}/attempts").raise_for_status().json().get("attempts", [])
        return next((attempt["error"] for attempt in attempts if attempt.get("error")), None)

    return suite.wait_for("failure", failed)
