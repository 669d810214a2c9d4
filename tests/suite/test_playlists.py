"""A list, end to end: from one URL to a verified file for each of its entries."""

from __future__ import annotations

from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite


def test_a_page_with_several_videos(suite: Suite, site: Site) -> None:
    """Asked for as a playlist, each of a page's videos is downloaded by a job of its own."""
    job = create_download(suite, site.url("/watch/several"), playlist=True)
    done = wait_for_end(suite, job)["completed"]
    assert (done["status"], done["job_count"]) == ("SUCCEEDED", 2)

    def all_ended() -> list[dict[str, object]] | None:
        jobs = suite.http.get("/api/v1/jobs", params={"batch_id": done["batch_id"]}).json()["jobs"]
        children = [one for one in jobs if one["job_id"] != job]
        return children if all(one["status"] in ("SUCCEEDED", "FAILED") for one in children) else None

    children = suite.wait_for("end of the list's jobs", all_ended, 60)
    digests = {file["sha256"] for child in children for file in child["files"]}  # type: ignore[attr-defined]
    assert digests == {site.digest("/media/720.mp4"), site.digest("/media/360.mp4")}


def test_an_estimate_of_a_list(suite: Suite, site: Site) -> None:
    """Before a list is asked for, it can be told how many jobs it would be."""
    asked = {"url": site.url("/watch/several"), "playlist": True, "max_entries": 1, "validate_only": True}
    answer = suite.http.post("/api/v1/download", json=asked).json()
    assert answer["estimate"]["job_count"] == 1
    assert "more entries than the 1 that" in answer["estimate"]["warnings"][0]


def test_a_list_is_one_video_unless_asked_otherwise(suite: Suite, site: Site) -> None:
    """Without playlist, the page's own video is what is downloaded, and nothing else."""
    done = wait_for_end(suite, create_download(suite, site.url("/watch/several")))["completed"]
    assert [file["sha256"] for file in done["files"]] == [site.digest("/media/720.mp4")]
    assert done.get("job_count", 0) == 0


def test_a_schedule_takes_only_what_is_new(suite: Suite, site: Site) -> None:
    """A list that is looked at twice is downloaded once; what was seen is remembered."""
    times = {"cron": "0 4 * * *", "timeZone": "Europe/Berlin", "newEntriesOnly": True}
    asked = {**times, "jobTemplate": {"url": site.url("/watch/several")}}
    made = suite.http.post("/v1/schedules?schedule_id=several", json=asked)
    assert made.status_code == 200, made.text
    assert made.json()["nextRunTime"]

    def counts() -> dict[str, int]:
        run = suite.http.post("/v1/schedules/several:run", json={}).json()
        done = wait_for_end(suite, run["name"].removeprefix("jobs/"), 60)["completed"]
        assert done["status"] == "SUCCEEDED"
        told = suite.http.get(f"/v1/{run['name']}").json()["expansion"]
        return {name: told.get(name, 0) for name in ("jobCount", "skippedCount")}

    assert counts() == {"jobCount": 2, "skippedCount": 0}
    assert counts() == {"jobCount": 0, "skippedCount": 2}
    assert suite.http.get("/v1/schedules/several").json()["seenEntryCount"] == "2"
    never = suite.http.post("/v1/schedules", json={**asked, "cron": "0 0 31 2 *"})
    assert never.status_code == 400
    assert never.json()["details"][0]["metadata"]["field"] == "schedule.cron"
    assert suite.http.delete("/v1/schedules/several").status_code == 200
