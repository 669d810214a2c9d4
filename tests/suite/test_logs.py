"""The log of the whole suite: calm when nothing is wrong, and each request's lines together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.suite.suite import running_suite

# The age of yt-dlp depends on the day on which the tests run.
_AGE = "the engine is "


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the lines of *log* that are records of it; each line that the services wrote is JSON."""
    lines = log.read_text().splitlines()
    return [json.loads(line) for line in lines if not line.startswith(("Reelhaul is ready", "  "))]


def test_clean_start_and_drain(tmp_path: Path):
    """A first start and a drain log nothing above INFO; a request's lines carry its id, tenant and client."""
    with running_suite(tmp_path / "data", log_level="DEBUG", log_format="json") as suite:
        response = suite.http.post("/api/v1/download", json={"url": "http://127.0.0.2:9/none"})
        job, request_id = response.json()["job_id"], response.headers["x-request-id"]
        suite.http.get(f"/api/v1/status/{job}", headers={"x-request-id": "status-1"})
        log = suite.log
    records = read_log(log)
    loud = [record for record in records if record["level"] not in ("DEBUG", "INFO")]
    assert [record for record in loud if not record["message"].startswith(_AGE)] == []
    for request, services in ((request_id, {"jobs", "gateway"}), ("status-1", {"jobs", "gateway"})):
        own = [record for record in records if record.get("request_id") == request]
        assert {record["service"] for record in own} == services
        assert {(record["tenant"], record["client"]) for record in own} == {("local", "127.0.0.1")}
    of_job = [record for record in records if record.get("job") == f"jobs/{job}"]
    assert {record["service"] for record in of_job} >= {"jobs", "gateway", "fetcher"}
