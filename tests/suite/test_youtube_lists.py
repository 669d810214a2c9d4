"""Playlists and channels of YouTube, through the whole suite: from one URL to a job for each entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.sites.youtube.site import YouTube
from tests.suite.suite import Suite, running_suite
from tests.suite.watching import created, ended

_SMALL = {"quality": "360p", "playlist": True}


@pytest.fixture(scope="module")
def suite(way_to_youtube: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that soon takes back what a fetcher that died held."""
    settings = way_to_youtube | {"jobs_lease_seconds": "3"}
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


def _items(children: list[dict[str, Any]]) -> list[int]:
    return [int(child["url"][-7:]) for child in children]


def _emptied(suite: Suite, job: str, batch: str) -> set[str]:
    """How the jobs of a list stand once it is cancelled and they have ended."""
    assert suite.http.post(f"/api/v1/cancel/{job}", json={}).status_code == 200
    final = {"SUCCEEDED", "FAILED", "CANCELLED"}

    def over() -> set[str] | None:
        states = {child["status"] for child in _children(suite, batch)}
        return states if states <= final else None

    return suite.awaited("end of the list's jobs", over)


def test_a_playlist_of_250(suite: Suite, youtube: YouTube) -> None:
    """Each of 250 entries becomes a job of one batch, in order; the first are files before long.

    A cancelled list takes what has not ended of its jobs along.
    """
    wishes = {**_SMALL, "max_entries": 500, "labels": {"list": "long"}}
    job = created(suite, youtube.playlist_url(250), **wishes)
    done = ended(suite, job)["completed"]
    assert (done["status"], done["job_count"]) == ("SUCCEEDED", 250)
    children = _children(suite, done["batch_id"])
    assert _items(children) == list(range(1, 251))
    assert {child["quality"] for child in children} == {"360p"}
    assert {child["labels"]["list"] for child in children} == {"long"}
    first = ended(suite, children[0]["job_id"])["completed"]
    assert (first["title"], first["files"][0]["kind"]) == ("Item 1", "VIDEO")
    assert "CANCELLED" in _emptied(suite, job, done["batch_id"])
    assert suite.http.get(f"/api/v1/status/{job}").json()["status"] == "SUCCEEDED"


def test_a_channel(suite: Suite, youtube: YouTube) -> None:
    """A channel is the videos of all its tabs; no more of them than asked become jobs, and each a file."""
    job = created(suite, youtube.channel_url(), **_SMALL, max_entries=3)
    done = ended(suite, job)["completed"]
    assert (done["status"], done["job_count"]) == ("SUCCEEDED", 3)
    assert ["more than the 3 entries" in warning for warning in done["warnings"]] == [True]
    children = _children(suite, done["batch_id"])
    assert _items(children) == [1001, 1002, 1003]
    assert {ended(suite, child["job_id"]).keys() & {"completed"} == {"completed"} for child in children} == {
        True
    }


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
    done = ended(suite, created(suite, youtube.playlist_url(0), **_SMALL))["completed"]
    assert (done["status"], done.get("job_count", 0), done["files"]) == ("SUCCEEDED", 0, [])


def _expanding(suite: Suite, youtube: YouTube, entries: int) -> tuple[str, str]:
    """A list that is being paged through, with a hundred jobs made at least; and its batch."""
    job = created(suite, youtube.playlist_url(entries), **_SMALL, max_entries=entries)

    def far() -> dict[str, Any] | None:
        told: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return told if told.get("job_count", 0) >= 100 else None

    told = suite.awaited("a hundred jobs of the list", far)
    assert (told["status"], told["job_count"] < entries) == ("RUNNING", True)
    return job, told["batch_id"]


def test_cancel_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """A list that is cancelled in the middle makes no more jobs, and those that it made end."""
    job, batch = _expanding(suite, youtube, 5000)
    assert _emptied(suite, job, batch) <= {"CANCELLED", "SUCCEEDED"}
    assert ended(suite, job)["failed"]["status"] == "CANCELLED"
    assert len(_children(suite, batch)) < 5000


def test_a_fetcher_that_dies_while_expanding(suite: Suite, youtube: YouTube) -> None:
    """The next fetcher goes on where the last renewal ended: each entry is a job, and once."""
    job, batch = _expanding(suite, youtube, 700)
    killed = suite.kill("fetcher")
    suite.await_another("fetcher", killed)
    done = ended(suite, job)["completed"]
    assert (done["job_count"], done["attempts"]) == (700, 2)
    assert _items(_children(suite, batch)) == list(range(1, 701))
    _emptied(suite, job, batch)
