"""Playlists: from one URL to a verified file for each entry, at once or by a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tests.sites.site import Site
from tests.suite.downloads import archived_digests, create_download, wait_for_end, watch_download
from tests.suite.suite import Suite

from reelhaul.cli.commands import reelhaul


def test_page_with_several_videos(suite: Suite, site: Site) -> None:
    """With ``playlist`` each video of a page has a job; the stream has their progress and ends after them."""
    job = create_download(suite, site.url("/watch/several"), playlist=True)
    messages = list(watch_download(suite, job))
    completed = messages[-1]["completed"]
    assert (completed["status"], completed["job_count"]) == ("SUCCEEDED", 2)
    assert (completed["job_counts"], completed["progress_percent"]) == ({"SUCCEEDED": 2}, 100)
    assert any("progress" in message for message in messages)
    digests = {file["sha256"] for child in _children(suite, completed) for file in child["files"]}
    assert digests == {site.digest("/media/720.mp4"), site.digest("/media/360.mp4")}
    assert archived_digests(suite, f"/api/v1/jobs/{job}/archive") == sorted(digests)


def test_feed(suite: Suite, site: Site, tmp_path: Path) -> None:
    """Each episode of a feed is one job under the feed's title, and `jobs save` saves the files of all."""
    options = {"playlist": True, "audio_only": True, "labels": {"test": "feed"}}
    completed = wait_for_end(suite, create_download(suite, site.url("/watch/feed"), **options))["completed"]
    assert completed["job_counts"] == {"SUCCEEDED": 2, "FAILED": 1}
    children = {child["title"]: child for child in _children(suite, completed)}
    assert set(children) == {"One & only", "Two", "Away"}
    assert children["Away"]["error"]["reason"] == "MEDIA_NOT_FOUND"
    arguments = [
        "jobs",
        "save",
        completed["job_id"],
        "-o",
        str(tmp_path),
        "--server",
        suite.address("gateway"),
    ]
    result = CliRunner().invoke(reelhaul, arguments)
    assert result.exit_code == 1
    assert "not saved: Away" in result.stderr
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["One & only", "Two"]


def _children(suite: Suite, playlist: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = suite.http.get("/api/v1/jobs", params={"batch_id": playlist["batch_id"]}).json()["jobs"]
    return [job for job in jobs if job["job_id"] != playlist["job_id"]]


def test_estimate(suite: Suite, site: Site) -> None:
    """With ``validate_only`` the response estimates the number of jobs."""
    body = {"url": site.url("/watch/several"), "playlist": True, "max_entries": 1, "validate_only": True}
    response = suite.http.post("/api/v1/download", json=body).json()
    assert response["estimate"]["job_count"] == 1
    assert "more entries than the 1 that" in response["estimate"]["warnings"][0]


def test_page_without_playlist_option(suite: Suite, site: Site) -> None:
    """Without ``playlist`` only the first video of the page is downloaded."""
    completed = wait_for_end(suite, create_download(suite, site.url("/watch/several")))["completed"]
    assert [file["sha256"] for file in completed["files"]] == [site.digest("/media/720.mp4")]
    assert completed.get("job_count", 0) == 0


def test_schedule_of_new_entries(suite: Suite, site: Site) -> None:
    """A schedule with newEntriesOnly skips the entries of earlier runs; an impossible cron is invalid."""
    options = {"cron": "0 4 * * *", "timeZone": "Europe/Berlin", "newEntriesOnly": True}
    schedule = {**options, "jobTemplate": {"url": site.url("/watch/several")}}
    created = suite.http.post("/v1/schedules?schedule_id=several", json=schedule)
    assert created.status_code == 200, created.text
    assert created.json()["nextRunTime"]

    def run() -> dict[str, int]:
        job = suite.http.post("/v1/schedules/several:run", json={}).json()
        completed = wait_for_end(suite, job["name"].removeprefix("jobs/"), 60)["completed"]
        assert completed["status"] == "SUCCEEDED"
        expansion = suite.http.get(f"/v1/{job['name']}").json()["expansion"]
        return {name: expansion.get(name, 0) for name in ("jobCount", "skippedCount")}

    assert run() == {"jobCount": 2, "skippedCount": 0}
    assert run() == {"jobCount": 0, "skippedCount": 2}
    assert suite.http.get("/v1/schedules/several").json()["seenEntryCount"] == "2"
    refused = suite.http.post("/v1/schedules", json={**schedule, "cron": "0 0 31 2 *"})
    assert refused.status_code == 400
    assert refused.json()["details"][0]["metadata"]["field"] == "schedule.cron"
    assert suite.http.delete("/v1/schedules/several").status_code == 200
