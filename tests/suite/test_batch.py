"""Many downloads in one JSON call: a batch, its listing and the statistics."""

from __future__ import annotations

import uuid

from tests.sites.site import Site
from tests.suite.downloads import archived_digests, wait_for_end
from tests.suite.suite import Suite


def test_batch(suite: Suite, site: Site) -> None:
    """A partial batch downloads its valid items and reports the invalid one; statistics count them."""
    before = suite.http.get("/api/v1/stats").json()
    body = {
        "urls": [site.url("/watch/demo"), "nonsense"],
        "options": {"quality": "360p"},
        "items": [{"url": site.url("/watch/demo"), "quality": "720p"}],
        "partial": True,
    }
    headers = {"idempotency-key": str(uuid.uuid4())}
    batch, repeated = [suite.http.post("/api/v1/batch", json=body, headers=headers).json() for _ in range(2)]
    assert (batch["batch_id"], batch["failed"]) == (repeated["batch_id"], repeated["failed"])
    assert [(item["index"], item["error"]["reason"]) for item in batch["failed"]] == [(1, "URL_INVALID")]
    for job in batch["jobs"]:
        assert "completed" in wait_for_end(suite, job["job_id"])
    listing = suite.http.get("/api/v1/jobs", params={"batch_id": batch["batch_id"], "order": "oldest"}).json()
    assert [(job["status"], job["got_quality"]) for job in listing["jobs"]] == [
        ("SUCCEEDED", "360p"),
        ("SUCCEEDED", "720p"),
    ]
    digests = [file["sha256"] for job in listing["jobs"] for file in job["files"]]
    assert archived_digests(suite, f"/api/v1/batch/{batch['batch_id']}/archive") == sorted(digests)
    after = suite.http.get("/api/v1/stats").json()
    assert after["by_status"]["SUCCEEDED"] - before.get("by_status", {}).get("SUCCEEDED", 0) == 2
    assert after["downloaded_bytes"] > before.get("downloaded_bytes", 0)
    assert 0 < after["median_seconds"] <= after["p95_seconds"]
    names = [f"jobs/{job['job_id']}" for job in reversed(listing["jobs"])]
    response = suite.http.get("/v1/jobs:batchGet", params={"names": names}).json()
    assert [job["name"] for job in response["jobs"]] == names
