"""The log of the whole suite: calm when nothing is wrong, and each request's lines together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.log_fields import documented_fields
from tests.suite.suite import running_suite

# The age of yt-dlp depends on the day on which the tests run.
_AGE = "the engine is "


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the lines of *log*, of a suite with REELHAUL_LOG_FORMAT=json: each of them is JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_clean_start_and_drain(tmp_path: Path):
    """A first start and a drain log nothing above INFO; a request's lines carry its id, tenant and client."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with running_suite(tmp_path / "data", log_level="DEBUG", log_format="json") as suite:
        response = suite.http.post(
            "/api/v1/download", json={"url": "http://127.0.0.2:9/none"}, headers={"traceparent": trace}
        )
        job, request_id = response.json()["job_id"], response.headers["x-request-id"]
        suite.http.get(f"/api/v1/status/{job}", headers={"x-request-id": "status-1"})
        suite.wait_for("an attempt", lambda: "fetch failed" in suite.log.read_text())
        log = suite.log
    records = read_log(log)
    loud = [record for record in records if record["level"] not in ("DEBUG", "INFO")]
    assert [record for record in loud if not record["message"].startswith(_AGE)] == []
    for request, services in ((request_id, {"jobs", "gateway"}), ("status-1", {"jobs", "gateway"})):
        own = [record for record in records if record.get("request_id") == request]
        assert {record["service"] for record in own} == services
        assert {(record["tenant"], record["client"]) for record in own} == {("local", "127.0.0.1")}
    assert {record["trace_id"] for record in records if record.get("request_id") == request_id} == {
        trace[3:35]
    }
    of_job = [record for record in records if record.get("job") == f"jobs/{job}"]
    first = min((record for record in of_job if record["level"] == "INFO"), key=lambda record: record["time"])
    assert (first["service"], first["rpc"].rpartition("/")[2]) == ("jobs", "CreateDownload")
    assert first["request_id"] == request_id
    of_attempt = [record for record in of_job if record["service"] == "fetcher"]
    assert {record.get("attempt") for record in of_attempt} == {1}
    assert {record["trace_id"] for record in of_attempt} == {trace[3:35]}
    assert any(record["logger"] == "reelhaul_fetcher.ytdlp" for record in of_attempt)
    check_fields(records)


def check_fields(records: list[dict[str, Any]]) -> None:
    """Check that docs/logs.md has the fields of *records*, with their types."""
    documented = documented_fields()
    for record in records:
        assert record.keys() >= {"time", "level", "service", "logger", "message"}, record
        assert record.keys() <= documented.keys(), record.keys() - documented.keys()
        wrong = [
            name
            for name, value in record.items()
            if value is not None and not isinstance(value, documented[name])
        ]
        assert wrong == [], record
