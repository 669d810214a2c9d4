"""``reelhaul up --status`` and /health/detailed: the same facts of a suite that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.suite.suite import Suite

# What differs from one moment to the next.
_VOLATILE = {"latency", "uptime", "rssBytes", "pssBytes", "clockOffset", "freeBytes"}


def test_status_is_that_of_detailed_health(suite: Suite):
    """Command and RPC report the same processes, components, versions, states and remedies."""
    suite.wait_for("workers of jobs", lambda: "usedCount" in _component(_health(suite), "jobs.workers"))
    status = _status(suite)
    assert _stable(_health(suite)) == _stable(status["health"])
    rows = {row["service"]: row for row in status["services"]}
    processes = {process["service"]: process for process in status["health"]["processes"]}
    assert {"gateway", "jobs", "storage", "fetcher"} == processes.keys()
    assert {name: int(process["pid"]) for name, process in processes.items()} == {
        name: rows[name]["pid"] for name in processes
    }
    assert int(processes["fetcher"]["pssBytes"]) > 50_000_000, "the processes below it are counted"


def test_status_names_versions_and_capacity(suite: Suite):
    """Database and migration revision, broker, engine, disk, slots and queue are in the report."""
    health = _health(suite)
    assert _component(health, "jobs.database")["version"].startswith("sqlite 3.")
    assert _component(health, "storage.database")["version"].endswith("revision 0006")
    assert _component(health, "jobs.nats")["version"].startswith("nats-server 2.")
    assert _component(health, "fetcher.engine")["version"].startswith("yt-dlp 20")
    assert int(_component(health, "fetcher.disk")["freeBytes"]) > 0
    assert int(_component(health, "fetcher.slots")["totalCount"]) > 0
    assert "wait for a slot" in _component(health, "jobs.queue")["message"]


def test_server_describes_its_engine_and_largest_artifact(suite: Suite):
    """DescribeServer names the engine of the fetchers, and the limit of storage."""
    description = suite.http.get("/v1:describeServer").raise_for_status().json()
    assert description["engineVersion"].startswith("yt-dlp 20")
    assert int(description["maxArtifactBytes"]) == 256 << 30


def _status(suite: Suite) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    completed = subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", "up", "--status", "--json"],
        cwd=suite.data_dir,
        env=environment | {"REELHAUL_DATA_DIR": str(suite.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    status: dict[str, Any] = json.loads(completed.stdout)
    return status


def _health(suite: Suite) -> dict[str, Any]:
    report: dict[str, Any] = suite.http.get("/health/detailed").raise_for_status().json()
    return report


def _component(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the component *name* that a process reports."""
    components = [each for process in report["processes"] for each in process.get("components", ())]
    return next(component for component in components if component["component"] == name)


def _stable(value: Any) -> Any:
    """Return *value* without what differs from one moment to the next."""
    if isinstance(value, dict):
        return {name: _stable(each) for name, each in value.items() if name not in _VOLATILE}
    return [_stable(each) for each in value] if isinstance(value, list) else value
