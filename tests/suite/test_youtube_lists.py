"""Playlists and channels of YouTube, through the whole suite: from one URL to a job for each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.sites.youtube.lists import tab_items
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite, running_suite

_SMALL = {"quality": "360p", "playlist": True}
# The least that a site has: sound as it is.
_SOUND = {"audio_only": True, "playlist": True}


@pytest.fixture(scope="module")
def suite(youtube_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that soon takes back what a fetcher that died held."""
    settings = youtube_settings | {"jobs_lease_seconds": "6", "fetcher_slots": "4"}
    with running_suite(tmp_path_factory.mktemp("lists") / "data", **settings) as suite:
        yield suite


def _children(suite: Suite, batch: str) -> list[dict[str, Any]]:
    """The jobs of *batch* but the list itself, the oldest first."""
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        query = {"batch_id": batch, "order": "oldest", "page_size": 1000, "page_token": token}
        page = suite.http.get("/api/v1/jobs", params=query).json()
        found += page["jobs"]
        if not (token := page.get("next_page_token", "")):
            return [job for job in found if "/watch?v=" in job["url"] or "/shorts/" in job["url"]]


def _downloaded(suite: Suite, job: str, batch: str, number: int) -> list[dict[str, Any]]:
    """The *number* jobs of the list *job*: all SUCCEEDED, each with a file of its own that can be read."""
    want = {"SUCCEEDED": number}

    def told() -> dict[str, Any]:
        found: dict[str, Any] = suite.http.get(f"/v1/jobs/{job}").json()["expansion"]
        return found

    suite.wait_for(f"files of all {number} entries", lambda: told()["stateCounts"] == want, 240)
    assert (told()["jobCount"], told().get("skippedCount", 0)) == (number, 0)
    counted = suite.http.get("/v1/jobs:summarize", params={"filter": f'batch_id = "{batch}"'}).json()
    # The list itself is one of them.
    assert counted["total"]["stateCounts"] == {"SUCCEEDED": str(number + 1)}
    children = _children(suite, batch)
    files = [file for child in children for file in child["files"]]
    assert (len({file["url"] for file in files}), {file["kind"] for file in files}) == (number, {"AUDIO"})
    for file in files:
        content = suite.http.get(file["url"]).content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    return children


def _items(children: list[dict[str, Any]]) -> list[int]:
    return [int(child["url"][-7:]) for child in children]


def _emptied(suite: Suite, job: str, batch: str) -> set[str]:
    """How the jobs of a list stand once it is cancelled and they have ended."""
    assert suite.http.post(f"/api/v1/cancel/{job}", json={}).status_code == 200
    final = {"SUCCEEDED", "FAILED", "CANCELLED"}

    def over() -> set[str] | None:
        states = {child["status"] for child in _children(suite, batch)}
        return states if states <= final else None

    return suite.wait_for("end of the list's jobs", over)


@pytest.mark.timeout(300)
def test_a_playlist_of_250(suite: Suite, youtube: YouTube) -> None:
    """Each of 250 entries becomes a job of one batch, in order, and each of them a file of its own."""
    wishes = {**_SOUND, "max_entries": 500, "labels": {"list": "long"}}
    job = create_download(suite, youtube.playlist_url(250), **wishes)
    done = wait_for_end(suite, job)["completed"]
    assert (done["status"], done["job_count"], done["warnings"]) == ("SUCCEEDED", 250, [])
    children = _downloaded(suite, job, done["batch_id"], 250)
    assert _items(children) == list(range(1, 251))
    assert [child["title"] for child in children] == [f"Item {number}" for number in range(1, 251)]
    assert {child["labels"]["list"] for child in children} == {"long"}
    assert {child["attempts"] for child in children} == {1}


@pytest.mark.timeout(300)
def test_a_channel(suite: Suite, youtube: YouTube) -> None:
    """A channel is all that its tabs hold, videos, shorts and broadcasts, and each becomes a file."""
    job = create_download(suite, youtube.channel_url(), **_SOUND)
    done = wait_for_end(suite, job)["completed"]
    entries = [item for tab in ("videos", "streams", "shorts") for item in tab_items(tab)]
    assert (done["status"], done["job_count"], done["warnings"]) == ("SUCCEEDED", len(entries), [])
    assert _items(_downloaded(suite, job, done["batch_id"], len(entries))) == entries


def test_no_more_than_asked(suite: Suite, youtube: YouTube) -> None:
    """Of a channel no more than the entries asked for become jobs, and that there are more is told."""
    job = create_download(suite, youtube.channel_url(), **_SOUND, max_entries=3)
    done = wait_for_end(suite, job)["completed"]
    assert (done["status"], done["job_count"]) == ("SUCCEEDED", 3)
    assert ["more than the 3 entries" in warning for warning in done["warnings"]] == [True]
    assert _items(_downloaded(suite, job, done["batch_id"], 3)) == [1001, 1002, 1003]


@pytest.mark.parametrize(("most", "jobs"), [(0, 100), (500, 250), (7, 7)])
def test_an_estimate(suite: Suite, youtube: YouTube, most: int, jobs: int) -> None:
    """What a list would come to is told beforehand, and nothing is begun by that."""
    before = suite.http.get("/api/v1/jobs").json()["total"]
    asked = {"url": youtube.playlist_url(250), **_SMALL, "max_entries": most, "validate_only": True}
    answer = suite.http.post("/api/v1/download", json=asked).json()
    assert (answer["job_id"], answer["estimate"]["job_count"]) == ("", jobs)
    assert suite.http.get("/api/v1/jobs").json()["total"] == before


def test_an_empty_playlist(suite: Suite, youtube: YouTube) -> None:
    """A list without entries is no failure: there is nothing to do."""
    done = wait_for_end(suite, create_download(suite, youtube.playlist_url(0), **_SMALL))["completed"]
    assert (done["status"], done.get("job_count", 0), done["files"]) == ("SUCCEEDED", 0, [])


def _expanding(suite: Suite, youtube: YouTube, entries: int) -> tuple[str, str]:
    """A list that is being paged through, with a hundred jobs made at least; and its batch."""
    job = create_download(suite, youtube.playlist_url(entries), **_SMALL, max_entries=entries)

    def far() -> dict[str, Any] | None:
        told: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return told if told.get("job_count", 0) >= 100 else None

    told = suite.wait_for("a hundred jobs of the list", far)
    assert (told["status"], told["job_count"] < entries) == ("RUNNING", True)
    return job, told["batch_id"]


def test_cancel_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """A list that is cancelled in the middle makes no more jobs, and those that it made end."""
    job, batch = _expanding(suite, youtube, 5000)
    assert _emptied(suite, job, batch) <= {"CANCELLED", "SUCCEEDED"}
    assert wait_for_end(suite, job)["failed"]["status"] == "CANCELLED"
    assert len(_children(suite, batch)) < 5000


def test_a_fetcher_that_dies_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """The next fetcher goes on where the last renewal ended: each entry is a job, and once.

    A list that is cancelled after its end takes what has not ended of its jobs along.
    """
    job, batch = _expanding(suite, youtube, 700)
    killed = suite.kill("fetcher")
    suite.wait_for_restart("fetcher", killed)
    done = wait_for_end(suite, job)["completed"]
    assert (done["job_count"], done["attempts"]) == (700, 2)
    assert _items(_children(suite, batch)) == list(range(1, 701))
    assert "CANCELLED" in _emptied(suite, job, batch)
    assert suite.http.get(f"/api/v1/status/{job}").json()["status"] == "SUCCEEDED"
