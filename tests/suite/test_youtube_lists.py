"""Playlists and channels of YouTube: from one URL to a job for each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.sites.youtube.lists import tab_items
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import create_download, wait_for_end, wait_for_list
from tests.suite.suite import Suite, running_suite

_SMALL = {"quality": "360p", "playlist": True}
# The smallest file: unconverted audio.
_AUDIO = {"audio_only": True, "playlist": True}


@pytest.fixture(scope="module")
def suite(youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with short leases, so that jobs of a killed fetcher are soon claimed by another."""
    settings = youtube_settings | {"jobs_lease_seconds": "6", "fetcher_slots": "4"}
    with running_suite(tmp_path_factory.mktemp("lists") / "data", **settings) as suite:
        yield suite


def _children(suite: Suite, batch: str) -> list[dict[str, Any]]:
    """Return the jobs of *batch* without that of the list itself, oldest first."""
    jobs: list[dict[str, Any]] = []
    token = ""
    while True:
        query = {"batch_id": batch, "order": "oldest", "page_size": 1000, "page_token": token}
        page = suite.http.get("/api/v1/jobs", params=query).json()
        jobs += page["jobs"]
        if not (token := page.get("next_page_token", "")):
            return [job for job in jobs if "/watch?v=" in job["url"] or "/shorts/" in job["url"]]


def _wait_for_files(suite: Suite, job: str, batch: str, number: int) -> list[dict[str, Any]]:
    """Wait until the *number* jobs of the list *job* have SUCCEEDED; check their files; return the jobs."""
    expected = {"SUCCEEDED": number}

    def expansion() -> dict[str, Any]:
        expansion: dict[str, Any] = suite.http.get(f"/v1/jobs/{job}").json()["expansion"]
        return expansion

    suite.wait_for(f"files of all {number} entries", lambda: expansion()["stateCounts"] == expected, 240)
    assert (expansion()["jobCount"], expansion().get("skippedCount", 0)) == (number, 0)
    summary = suite.http.get("/v1/jobs:summarize", params={"filter": f'batch_id = "{batch}"'}).json()
    # The list itself is counted too.
    assert summary["total"]["stateCounts"] == {"SUCCEEDED": str(number + 1)}
    children = _children(suite, batch)
    files = [file for child in children for file in child["files"]]
    assert (len({file["url"] for file in files}), {file["kind"] for file in files}) == (number, {"AUDIO"})
    for file in files:
        content = suite.http.get(file["url"]).content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    return children


def _item_numbers(children: list[dict[str, Any]]) -> list[int]:
    return [int(child["url"][-7:]) for child in children]


def _cancel_list(suite: Suite, job: str, batch: str) -> set[str]:
    """Cancel the list *job* and wait until its jobs have ended; return their states."""
    assert suite.http.post(f"/api/v1/cancel/{job}", json={}).status_code == 200
    final = {"SUCCEEDED", "FAILED", "CANCELLED"}

    def ended() -> set[str] | None:
        states = {child["status"] for child in _children(suite, batch)}
        return states if states <= final else None

    return suite.wait_for("end of the list's jobs", ended)


@pytest.mark.timeout(300)
def test_long_playlist(suite: Suite, youtube: YouTube) -> None:
    """Each of 250 entries becomes a job of the batch, in order, with its own file."""
    options = {**_AUDIO, "max_entries": 500, "labels": {"list": "long"}}
    job = create_download(suite, youtube.playlist_url(250), **options)
    completed = wait_for_list(suite, job)
    assert (completed["status"], completed["job_count"], completed["warnings"]) == ("SUCCEEDED", 250, [])
    children = _wait_for_files(suite, job, completed["batch_id"], 250)
    assert _item_numbers(children) == list(range(1, 251))
    assert [child["title"] for child in children] == [f"Item {number}" for number in range(1, 251)]
    assert {child["labels"]["list"] for child in children} == {"long"}
    assert {child["attempts"] for child in children} == {1}


@pytest.mark.timeout(300)
def test_channel(suite: Suite, youtube: YouTube) -> None:
    """A channel expands to the videos, shorts and broadcasts in its tabs; each becomes a file."""
    job = create_download(suite, youtube.channel_url(), **_AUDIO)
    completed = wait_for_list(suite, job)
    numbers = [number for tab in ("videos", "streams", "shorts") for number in tab_items(tab)]
    assert (completed["status"], completed["warnings"]) == ("SUCCEEDED", [])
    assert completed["job_count"] == len(numbers)
    assert _item_numbers(_wait_for_files(suite, job, completed["batch_id"], len(numbers))) == numbers


def test_max_entries(suite: Suite, youtube: YouTube) -> None:
    """Only max_entries entries of a channel become jobs, with a warning that there are more."""
    job = create_download(suite, youtube.channel_url(), **_AUDIO, max_entries=3)
    completed = wait_for_end(suite, job)["completed"]
    assert (completed["status"], completed["job_count"]) == ("SUCCEEDED", 3)
    assert ["more than the 3 entries" in warning for warning in completed["warnings"]] == [True]
    assert _item_numbers(_wait_for_files(suite, job, completed["batch_id"], 3)) == [1001, 1002, 1003]


@pytest.mark.parametrize(("max_entries", "jobs"), [(0, 100), (500, 250), (7, 7)])
def test_estimate(suite: Suite, youtube: YouTube, max_entries: int, jobs: int) -> None:
    """With ``validate_only`` the response has the number of jobs, and none is created."""
    before = suite.http.get("/api/v1/jobs").json()["total"]
    body = {"url": youtube.playlist_url(250), **_SMALL, "max_entries": max_entries, "validate_only": True}
    response = suite.http.post("/api/v1/download", json=body).json()
    assert (response["job_id"], response["estimate"]["job_count"]) == ("", jobs)
    assert suite.http.get("/api/v1/jobs").json()["total"] == before


def test_empty_playlist(suite: Suite, youtube: YouTube) -> None:
    """A playlist without entries succeeds without jobs."""
    completed = wait_for_end(suite, create_download(suite, youtube.playlist_url(0), **_SMALL))["completed"]
    assert (completed["status"], completed.get("job_count", 0), completed["files"]) == ("SUCCEEDED", 0, [])


def _start_expansion(suite: Suite, youtube: YouTube, entries: int) -> tuple[str, str]:
    """Create a list job and wait until it has made a hundred jobs; return it and its batch."""
    job = create_download(suite, youtube.playlist_url(entries), **_SMALL, max_entries=entries)

    def expanding() -> dict[str, Any] | None:
        status: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return status if status.get("job_count", 0) >= 100 else None

    status = suite.wait_for("a hundred jobs of the list", expanding)
    assert (status["status"], status["job_count"] < entries) == ("RUNNING", True)
    return job, status["batch_id"]


def test_cancel_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """A list that is cancelled while it expands makes no more jobs, and its jobs end."""
    job, batch = _start_expansion(suite, youtube, 5000)
    assert _cancel_list(suite, job, batch) <= {"CANCELLED", "SUCCEEDED"}
    assert wait_for_end(suite, job)["failed"]["status"] == "CANCELLED"
    assert len(_children(suite, batch)) < 5000


def test_fetcher_is_killed_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """Another fetcher continues after the last renewed entry, so that each entry becomes exactly one job.

    Cancelling the list after its end cancels those of its jobs that have not ended.
    """
    job, batch = _start_expansion(suite, youtube, 700)
    pid = suite.kill("fetcher")
    suite.wait_for_restart("fetcher", pid)
    completed = wait_for_list(suite, job)
    assert (completed["job_count"], completed["attempts"]) == (700, 2)
    assert _item_numbers(_children(suite, batch)) == list(range(1, 701))
    assert "CANCELLED" in _cancel_list(suite, job, batch)
    assert suite.http.get(f"/api/v1/status/{job}").json()["status"] == "SUCCEEDED"
