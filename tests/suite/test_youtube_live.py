"""Broadcasts and premieres through the whole suite: waited for, recorded, ended with a file that plays."""

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
    """A suite with one slot, and room for one recording beside it; what died is soon taken up."""
    settings = youtube_settings | {"fetcher_slots": "1", "fetcher_recordings": "1", "jobs_lease_seconds": "3"}
    with running_suite(tmp_path_factory.mktemp("live") / "data", **settings) as suite:
        yield suite


def _recorded(suite: Suite, done: dict[str, Any], folder: Path) -> float:
    """Seconds of a recording, which has picture and sound."""
    found = tools.probe(save_file(suite, done["files"][0], folder))
    assert (found.height, set(found.codecs)) == (360, {"video", "audio"})
    return found.duration


def test_to_the_end(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A broadcast is recorded from now to its end."""
    done = download(suite, youtube.watch_url("live", copy=9), live="record", format="mp4")
    assert 3 < _recorded(suite, done, tmp_path) < 8
    assert (done["got_format"], done["warnings"]) == ("mp4", [])


def test_to_its_limit(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """At its time limit a recording is stopped: a file that plays, and a warning."""
    job = {
        "url": youtube.watch_url("livelong"),
        "format": {"live": {"mode": "RECORD", "maxDuration": "4s"}, "container": "MP4"},
    }
    made = suite.http.post("/v1/jobs", json=job).json()
    done = wait_for_end(suite, made["name"].removeprefix("jobs/"))["completed"]
    assert _recorded(suite, done, tmp_path) == pytest.approx(4, abs=0.5)
    assert ["stopped after 4 s" in warning for warning in done["warnings"]] == [True]


def test_the_limit_in_plain_words(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """The longest play time that the simple API is asked for limits a recording too."""
    wishes = {"live": "record", "format": "mp4", "max_duration_seconds": 3}
    done = download(suite, youtube.watch_url("livelong"), **wishes)
    assert _recorded(suite, done, tmp_path) == pytest.approx(3, abs=0.5)


def test_a_premiere(suite: Suite, youtube: YouTube) -> None:
    """An event that is waited for is fetched when it has begun; meanwhile it holds no slot."""
    waiting = create_download(suite, youtube.watch_url("premiere", copy=9), quality="360p", live="wait")

    def waits() -> bool:
        told = suite.http.get(f"/api/v1/status/{waiting}").json()
        return (told["status"], told["wait_reason"], told["attempts"]) == ("QUEUED", "LIVE_NOT_BEGUN", 0)

    suite.wait_for("wait for the premiere", waits)
    assert download(suite, youtube.watch_url("plain360"), quality="360p")["status"] == "SUCCEEDED"
    assert wait_for_end(suite, waiting)["completed"]["got_quality"] == "360p"


def test_what_has_not_begun_is_not_recorded(suite: Suite, youtube: YouTube) -> None:
    """Who asks to record now is told that there is nothing yet, and that time will change it."""
    job = create_download(suite, youtube.watch_url("upcoming", copy=9), live="record")

    def waits() -> dict[str, Any] | None:
        told: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return told if told["status"] == "RETRYING" else None

    assert suite.wait_for("retry", waits)["error"]["reason"] == "MEDIA_NOT_LIVE_YET"


def _recording(suite: Suite, job: str) -> None:
    """Return when *job* has recorded something."""

    def records() -> bool:
        told = suite.http.get(f"/api/v1/status/{job}").json()
        return told.get("stage") == "RECORDING" and told["downloaded_bytes"] > 0

    suite.wait_for("recording", records)


def test_ended_by_its_user(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """A recording that its user ends is a file that plays, soon, and says that it was by request.

    Asked again, also after the end, nothing changes; cancelling is then too late.
    """
    job = create_download(suite, youtube.watch_url("livelong", copy=3), live="record", format="mp4")
    _recording(suite, job)
    asked = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
    assert (asked.status_code, asked.json()["state"]) == (200, "RUNNING")
    began = time.monotonic()
    done = wait_for_end(suite, job)["completed"]
    assert time.monotonic() - began < 20
    assert _recorded(suite, done, tmp_path) > 1
    assert ["stopped by request" in warning for warning in done["warnings"]] == [True]
    again = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
    assert suite.http.post(f"/api/v1/stop_recording/{job}", json={}).json()["status"] == "SUCCEEDED"
    told = again.json()
    assert (again.status_code, told["state"]) == (200, "SUCCEEDED")
    assert told["recordingStopTime"] == asked.json()["recordingStopTime"]
    assert [warning["reason"] for warning in told["warnings"]] == ["RECORDING_STOPPED"]
    assert suite.http.post(f"/v1/jobs/{job}:cancel", json={}).status_code == 400


def test_nothing_to_end(suite: Suite, youtube: YouTube) -> None:
    """Of what waits for its event, or was no broadcast, there is no recording to be kept: that is told."""
    waiting = create_download(suite, youtube.watch_url("upcoming", copy=4), live="wait")

    def waits() -> bool:
        return bool(suite.http.get(f"/api/v1/status/{waiting}").json()["wait_reason"] == "LIVE_NOT_BEGUN")

    suite.wait_for("wait for the event", waits)
    video = download(suite, youtube.watch_url("plain360"), quality="360p")
    for job, state in ((waiting, "QUEUED"), (video["job_id"], "SUCCEEDED")):
        refused = suite.http.post(f"/v1/jobs/{job}:stopRecording", json={})
        assert refused.status_code == 400
        told = refused.json()["details"][0]
        assert (told["reason"], told["metadata"]["state"]) == ("STATE_CONFLICT", state)
    suite.http.post(f"/v1/jobs/{waiting}:cancel", json={}).raise_for_status()
    assert wait_for_end(suite, waiting)["failed"]["status"] == "CANCELLED"


def test_ended_by_its_user_under_kills(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """The wish outlives jobs and the fetcher: who takes the job up again keeps a moment and ends."""
    job = create_download(suite, youtube.watch_url("livelong", copy=5), live="record", format="mp4")
    _recording(suite, job)
    os.kill(suite.pid("fetcher"), signal.SIGSTOP)
    with Client(suite.address("gateway")) as client:
        assert client.stop_recording(job).stage == Progress.RECORDING
    killed = [(name, suite.kill(name)) for name in ("jobs", "fetcher")]
    for name, pid in killed:
        suite.wait_for_restart(name, pid)
    done = wait_for_end(suite, job)["completed"]
    assert _recorded(suite, done, tmp_path) > 1
    assert (done["attempts"], "stopped by request" in done["warnings"][0]) == (2, True)


def test_recordings_starve_nobody(suite: Suite, youtube: YouTube, tmp_path: Path) -> None:
    """While one records, the only slot is another's; a second recording waits; cancelled, it is gone in time.

    A fetcher that is told to leave ends its recording with what it has.
    """
    lasting = create_download(suite, youtube.watch_url("livelong", copy=1), live="record", format="mp4")
    wait_until_downloading(suite, lasting, 1)
    assert download(suite, youtube.watch_url("plain360"), quality="360p")["status"] == "SUCCEEDED"
    second = create_download(suite, youtube.watch_url("livelong", copy=2), live="record")

    def waits() -> bool:
        told = suite.http.get(f"/api/v1/status/{second}").json()
        return (told["status"], told["wait_reason"], told["attempts"]) == ("QUEUED", "IN_QUEUE", 0)

    suite.wait_for("wait for room", waits)
    suite.http.post(f"/api/v1/cancel/{second}", json={})
    assert wait_for_end(suite, second)["failed"]["status"] == "CANCELLED"
    assert suite.http.get(f"/api/v1/status/{lasting}").json()["status"] == "RUNNING"
    os.kill(suite.pid("fetcher"), signal.SIGTERM)
    done = wait_for_end(suite, lasting)["completed"]
    assert _recorded(suite, done, tmp_path) > 1
    assert (done["attempts"], "was stopped after" in done["warnings"][0]) == (1, True)
