"""Broadcasts and premieres: wait for the start, record, and end with a playable file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sites import tools
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import (
    create_download,
    download,
    save_file,
    wait_for_end,
    wait_until_downloading,
)
from tests.suite.suite import Suite, running_suite

from reelhaul.rest import Client
from reelhaul.type.v1.media_pb2 import Progress


@pytest.fixture(scope="module")
def suite(youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with one slot, one additional slot for recordings, and short leases."""
    settings = youtube_settings | {"fetcher_slots": "1", "fetcher_recordings": "1", "jobs_lease_seconds": "3"}
    with running_suite(tmp_path_factory.mktemp("live") / "data", **settings) as suite:
        yield suite


def _recorded_seconds(suite: Suite, completed: dict[str, Any], folder: Path) -> float:
    """Check that the recording has video and audio; return its duration."""
    probe = tools.probe(save_file(suite, completed["files"][0], folder))
    assert (probe.height, set(probe.codecs)) == (360, {"video", "audio"})
    return probe.duration


def test_record_to_end(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A broadcast is recorded from the current position to its end."""
    completed = download(suite, youtube.watch_url("live", copy=9), live="record", format="mp4")
    assert 3 < _recorded_seconds(suite, completed, tmp_path) < 8
    assert (completed["got_format"], completed["warnings"]) == ("mp4", [])


def test_record_max_duration(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A recording stops at maxDuration with a playable file and a warning."""
    job = {
        "url": youtube.watch_url("livelong"),
        "format": {"live": {"mode": "RECORD", "maxDuration": "4s"}, "container": "MP4"},
    }
    created = suite.http.post("/v1/jobs", json=job).json()
    completed = wait_for_end(suite, created["name"].removeprefix("jobs/"))["completed"]
    assert _recorded_seconds(suite, completed, tmp_path) == pytest.approx(4, abs=0.5)
    assert ["stopped after 4 s" in warning for warning in completed["warnings"]] == [True]


def test_max_duration_of_flat_api(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """max_duration_seconds of the flat API limits a recording too."""
    options = {"live": "record", "format": "mp4", "max_duration_seconds": 3}
    completed = download(suite, youtube.watch_url("livelong"), **options)
    assert _recorded_seconds(suite, completed, tmp_path) == pytest.approx(3, abs=0.5)


def test_premiere(suite: Suite, youtube: YouTube) -> None:
    """A job that is_waiting for a premiere holds no slot, and is fetched when the premiere has started."""
    premiere = create_download(suite, youtube.watch_url("premiere", copy=9), quality="360p", live="wait")

    def is_waiting() -> bool:
        status = suite.http.get(f"/api/v1/status/{premiere}").json()
        waiting = (status["status"], status["wait_reason"], status["attempts"])
        return waiting == ("QUEUED", "LIVE_NOT_BEGUN", 0)

    suite.wait_for("wait for the premiere", is_waiting)
    assert download(suite, youtube.watch_url("plain360"), quality="360p")["status"] == "SUCCEEDED"
    assert wait_for_end(suite, premiere)["completed"]["got_quality"] == "360p"


def test_upcoming_is_not_recorded(suite: Suite, youtube: YouTube) -> None:
    """A job that is to record an event now fails with MEDIA_NOT_LIVE_YET."""
    job = create_download(suite, youtube.watch_url("upcoming", copy=9), live="record")
    assert wait_for_end(suite, job)["failed"]["error"]["reason"] == "MEDIA_NOT_LIVE_YET"


def _wait_until_recording(suite: Suite, job: str) -> None:
    """Wait until *job* has recorded some bytes."""

    def is_recording() -> bool:
        status = suite.http.get(f"/api/v1/status/{job}").json()
        return status.get("stage") == "RECORDING" and status["downloaded_bytes"] > 0

    suite.wait_for("recording", is_recording)


def test_stop_recording(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A stopped recording soon becomes a playable file, with a warning that it was stopped by request.

    Stopping it again changes nothing; cancelling it is then refused.
    """
    job = create_download(suite, youtube.watch_url("livelong", copy=3), live="record", format="mp4")
    _wait_until_recording(suite, job)
    stopped = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
    assert (stopped.status_code, stopped.json()["state"]) == (200, "RUNNING")
    begin = time.monotonic()
    completed = wait_for_end(suite, job)["completed"]
    assert time.monotonic() - begin < 20
    assert _recorded_seconds(suite, completed, tmp_path) > 1
    assert ["stopped by request" in warning for warning in completed["warnings"]] == [True]
    repeated = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
    assert suite.http.post(f"/api/v1/stop_recording/{job}", json={}).json()["status"] == "SUCCEEDED"
    job_after = repeated.json()
    assert (repeated.status_code, job_after["state"]) == (200, "SUCCEEDED")
    assert job_after["recordingStopTime"] == stopped.json()["recordingStopTime"]
    assert [warning["reason"] for warning in job_after["warnings"]] == ["RECORDING_STOPPED"]
    assert suite.http.post(f"/v1/jobs/{job}:cancel", json={}).status_code == 400


def test_no_recording_to_stop(suite: Suite, youtube: YouTube) -> None:
    """stopRecording is refused for a job that is_waiting for its event, and for one that is no broadcast."""
    event = create_download(suite, youtube.watch_url("upcoming", copy=4), live="wait")

    def is_waiting() -> bool:
        return bool(suite.http.get(f"/api/v1/status/{event}").json()["wait_reason"] == "LIVE_NOT_BEGUN")

    suite.wait_for("wait for the event", is_waiting)
    video = download(suite, youtube.watch_url("plain360"), quality="360p")
    for job, state in ((event, "QUEUED"), (video["job_id"], "SUCCEEDED")):
        refused = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
        assert refused.status_code == 400
        info = refused.json()["details"][0]
        assert (info["reason"], info["metadata"]["state"]) == ("STATE_CONFLICT", state)
    suite.http.post(f"/v1/jobs/{event}:cancel", json={}).raise_for_status()
    assert wait_for_end(suite, event)["failed"]["status"] == "CANCELLED"


def test_stop_recording_under_kills(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """stopRecording survives kills of jobs and fetcher: the next attempt records a moment and ends."""
    job = create_download(suite, youtube.watch_url("livelong", copy=5), live="record", format="mp4")
    _wait_until_recording(suite, job)
    os.kill(suite.pid("fetcher"), signal.SIGSTOP)
    with Client(suite.address("gateway")) as client:
        assert client.stop_recording(job).stage == Progress.RECORDING
    pids = [(name, suite.kill(name)) for name in ("jobs", "fetcher")]
    for name, pid in pids:
        suite.wait_for_restart(name, pid)
    completed = wait_for_end(suite, job)["completed"]
    assert _recorded_seconds(suite, completed, tmp_path) > 1
    assert (completed["attempts"], "stopped by request" in completed["warnings"][0]) == (2, True)


def test_recording_slots(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A recording leaves the slot to downloads; a second recording is_waiting, and can be cancelled.

    A fetcher that gets SIGTERM ends its recording with what it has.
    """
    first = create_download(suite, youtube.watch_url("livelong", copy=1), live="record", format="mp4")
    wait_until_downloading(suite, first, 1)
    assert download(suite, youtube.watch_url("plain360"), quality="360p")["status"] == "SUCCEEDED"
    second = create_download(suite, youtube.watch_url("livelong", copy=2), live="record")

    def is_waiting() -> bool:
        status = suite.http.get(f"/api/v1/status/{second}").json()
        return (status["status"], status["wait_reason"], status["attempts"]) == ("QUEUED", "IN_QUEUE", 0)

    suite.wait_for("wait for a recording slot", is_waiting)
    suite.http.post(f"/api/v1/cancel/{second}", json={})
    assert wait_for_end(suite, second)["failed"]["status"] == "CANCELLED"
    assert suite.http.get(f"/api/v1/status/{first}").json()["status"] == "RUNNING"
    os.kill(suite.pid("fetcher"), signal.SIGTERM)
    completed = wait_for_end(suite, first)["completed"]
    assert _recorded_seconds(suite, completed, tmp_path) > 1
    assert (completed["attempts"], "was stopped after" in completed["warnings"][0]) == (1, True)
