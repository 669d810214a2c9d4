"""Many downloads in one call, over JSON: one batch, its history, its statistics."""

from __future__ import annotations

import uuid

from tests.sites.site import Site
from tests.suite.downloads import wait_for_end
from tests.suite.suite import Suite


def test_batch(suite: Suite, site: Site) -> None:
    """Good downloads of a partial batch end as files, the bad one is told at once; stats count them."""
    before = suite.http.get("/api/v1/stats").json()
    body = {
        "urls": [site.url("/watch/demo"), "nonsense"],
        "options": {"quality": "360p"},
        "items": [{"url": site.url("/watch/demo"), "quality": "720p"}],
        "partial": True,
    }
    headers = {"idempotency-key": str(uuid.uuid4())}
    made, again = [suite.http.post("/api/v1/batch", json=body, headers=headers).json() for _ in range(2)]
    assert (made["batch_id"], made["failed"]) == (again["batch_id"], again["failed"])
    assert [(one["index"], one["error"]["reason"]) for one in made["failed"]] == [(1, "URL_INVALID")]
    for job in made["jobs"]:
        assert "completed" in wait_for_end(suite, job["job_id"])
    listed = suite.http.get("/api/v1/jobs", params={"batch_id": made["batch_id"], "order": "oldest"}).json()
    assert [(job["status"], job["got_quality"]) for job in listed["jobs"]] == [
        ("SUCCEEDED", "360p"),
        ("SUCCEEDED", "720p"),
    ]
    after = suite.http.get("/api/v1/stats").json()
    assert after["by_status"]["SUCCEEDED"] - before.get("by_status", {}).get("SUCCEEDED", 0) == 2
    assert after["downloaded_bytes"] > before.get("downloaded_bytes", 0)
    assert 0 < after["median_seconds"] <= after["p95_seconds"]
    names = [f"jobs/{job['job_id']}" for job in reversed(listed["jobs"])]
    found = suite.http.get("/v1/jobs:batchGet", params={"names": names}).json()
    assert [job["name"] for job in found["jobs"]] == names
