"""A suite that runs, as ``reelhaul up --status``, /health/detailed and ``reelhaul doctor`` show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.suite.suite import Suite

# Of the suite's settings those that its state does not tell.
_UNUSED_ADDRESSES = {"REELHAUL_STORAGE_HTTP_ADDRESS": "127.0.0.1:0"}
# What differs from one moment to the next.
_VOLATILE = {"latency", "uptime", "rssBytes", "pssBytes", "clockOffset", "freeBytes", "usedCount"}
# Fetchers report to jobs every ten seconds; jobs of earlier tests may still run.
_COUNTS = {"jobs.workers", "jobs.queue", "jobs.nats", "nats"}


def test_status_is_that_of_detailed_health(suite: Suite):
    """Command and RPC report the same processes, components, versions, states and remedies."""
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


def test_doctor_finds_nothing_wrong_with_a_suite_that_runs(suite: Suite):
    """It sees the suite's processes at their addresses, asks its broker, and prints no secret."""
    report = _run(suite, "doctor", "--json")
    levels = {each["level"] for each in report["checks"]}
    assert "problem" not in levels, report
    facts = {each["check"]: each["fact"] for each in report["checks"]}
    assert facts["address.jobs"].startswith(f"the suite listens at {suite.address('jobs')} (pid ")
    serving = [each["fact"] for each in report["checks"] if each["check"] == "processes"]
    assert [" serves, version " in fact for fact in serving] == [True] * 3
    brokers = [each["fact"] for each in report["checks"] if each["check"] == "broker"]
    assert brokers[0].startswith("nats-server 2.")
    assert "the clock of the broker agrees" in brokers[1]
    token = (suite.data_dir / "run" / "suite-token").read_text().strip()
    assert token not in json.dumps(report)


def _status(suite: Suite) -> dict[str, Any]:
    return _run(suite, "up", "--status", "--json")


def _run(suite: Suite, *arguments: str) -> dict[str, Any]:
    """Run a server command on the data folder of *suite*; return the JSON that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    completed = subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", *arguments],
        cwd=suite.data_dir,
        env=environment | _UNUSED_ADDRESSES | {"REELHAUL_DATA_DIR": str(suite.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report: dict[str, Any] = json.loads(completed.stdout)
    return report


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
    if isinstance(value, list):
        return [_stable(each) for each in value if each.get("component") not in _COUNTS]
    return value
