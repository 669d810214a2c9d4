"""An alert of the shipped rules, from a real suite through Prometheus and Alertmanager to a receiver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.observability.dashboards import read_queries
from tests.observability.expressions import OBSERVABILITY, Metrics, documented_metrics, find_mistakes
from tests.observability.rules import all_rules, records
from tests.servers import free_port, running_process
from tests.suite.suite import Suite, running_suite
from tests.webhook_receiver import Receiver, running_receiver

SERVICES = ("gateway", "jobs", "fetcher", "storage")
#: From the end of the last worker to the notification.
_ALERT_SECONDS = 30
#: Alerts that say the same of other services and replicas.
_OF_THE_STOP = {"ReelhaulNoLiveWorker", "ReelhaulServiceAbsent", "ReelhaulReplicaDown", "ReelhaulNotReady"}
#: Alerts that may be right on the machine of the tests.
_OF_THE_MACHINE = {"ReelhaulEngineOld", "ReelhaulDiskFull", "ReelhaulDiskFillsUp", "ReelhaulEventLoopLag"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite whose fetcher a test stops."""
    with running_suite(tmp_path_factory.mktemp("alert") / "data") as suite:
        yield suite


def test_metrics_are_served(suite: Suite):
    """The metrics of all alerts and dashboards are in the output of the services, with these labels."""
    request = {"url": "http://127.0.0.2:9/none", "retryPolicy": {"maxAttempts": 1}}
    job = suite.http.post("/v1/jobs", json=request).json()["name"]
    suite.wait_for("end of the job", lambda: suite.http.get(f"/v1/{job}").json()["state"] == "FAILED")
    expressions = [rule["expr"] for rule in all_rules()] + [expression for _, expression, _ in read_queries()]
    served = served_metrics(suite)
    mistakes = {each for expression in expressions for each in find_mistakes(expression, served, records())}
    # This suite has no certificate.
    assert mistakes == {"there is no metric reelhaul_certificate_expiry_timestamp_seconds"}


def test_no_worker(suite: Suite, programs: Path, tmp_path: Path):
    """When the last fetcher stops, an alert arrives within 30 s; no alert fires about anything else.

    The rules, routes and scrape jobs are those that are shipped; only addresses, and the durations that would
    make the test wait, are replaced.
    """
    with (
        running_receiver() as receiver,
        running_alertmanager(programs, tmp_path, receiver) as alertmanager,
        running_prometheus(programs, tmp_path, alertmanager, suite) as prometheus,
    ):
        wait_for(lambda: query(prometheus, 'up{job=~"reelhaul-.+"}') == ["1"] * len(SERVICES))
        wait_for(lambda: query(prometheus, 'max(reelhaul_workers{state="live"})') == ["1"])
        before = len(receiver.received)
        with stopped_worker(suite):
            notice = wait_for(lambda: find_notice(receiver, "ReelhaulNoLiveWorker", before), _ALERT_SECONDS)
            firing = firing_alerts(prometheus)
    assert firing - _OF_THE_STOP - _OF_THE_MACHINE == {"ReelhaulWatchdog"}
    assert notice["path"] == "/critical"
    assert notice["labels"]["severity"] == "critical"
    assert notice["annotations"]["summary"] == "No fetcher takes work"
    assert notice["annotations"]["runbook_url"] == "docs/runbooks/ReelhaulNoLiveWorker.md"


def served_metrics(suite: Suite) -> Metrics:
    """Return what the services of *suite* serve; a metric without samples has its documented labels."""
    found = {}
    for service in SERVICES:
        text = httpx.get(suite.metrics_url(service), trust_env=False).text
        for family in text_string_to_metric_families(text):
            name = family.name + "_total" * (family.type == "counter")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            documented = documented_metrics().get(name, frozenset())
            found[name] = found.get(name, frozenset()) | (labels if family.samples else documented)
    return found


@contextmanager
def stopped_worker(suite: Suite) -> Iterator[None]:
    """Drain the only fetcher; its supervisor, which would start it again, is stopped during the block."""
    supervisor = suite.supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(suite.pid("fetcher"), signal.SIGTERM)
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)


@contextmanager
def running_prometheus(programs: Path, folder: Path, alertmanager: str, suite: Suite) -> Iterator[str]:
    """Run Prometheus with the shipped configuration; yields its URL."""
    shipped = OBSERVABILITY / "prometheus"
    rules = folder / "rules"
    rules.mkdir()
    for file in shipped.glob("rules/*.yml"):
        (rules / file.name).write_text(re.sub(r"for: \d+m", "for: 1s", file.read_text()))
    config = yaml.safe_load((shipped / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    for job in config["scrape_configs"]:
        address = httpx.URL(suite.metrics_url(job["job_name"].removeprefix("reelhaul-"))).netloc.decode()
        job["static_configs"][0]["targets"] = [address]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(programs / "prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address={address}",
    ]
    with running_server(command, f"http://{address}/-/ready", folder / "prometheus.log"):
        yield f"http://{address}"


@contextmanager
def running_alertmanager(programs: Path, folder: Path, receiver: Receiver) -> Iterator[str]:
    """Run Alertmanager with the shipped routes, all to *receiver*; yields its address."""
    shipped = (OBSERVABILITY / "alertmanager/alertmanager.yml").read_text()
    text = re.sub(r"group_(wait|interval): \w+", r"group_\1: 1s", shipped)
    text = text.replace("http://127.0.0.1:9095", receiver.url.removesuffix("/hook"))
    (folder / "alertmanager.yml").write_text(text)
    # Debian's reads a template below /usr/share, where nothing is installed. Relative to the folder of the
    # unpacked package there is one.
    program = folder / "alertmanager"
    code = (programs / "prometheus-alertmanager").read_bytes()
    program.write_bytes(
        code.replace(b"/usr/share/prometheus/alertmanager", b"usr/share/prometheus//alertmanager")
    )
    program.chmod(0o700)
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(program),
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/alerts",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    root = programs.parents[1]
    with running_server(command, f"http://{address}/-/ready", folder / "alertmanager.log", cwd=root):
        yield address


@contextmanager
def running_server(command: list[str], url: str, log: Path, cwd: Path | None = None) -> Iterator[None]:
    """Run *command*, which is ready when *url* answers 200, until the end of the block."""
    with log.open("wb") as output, running_process(command, stdout=output, stderr=output, cwd=cwd) as process:
        wait_for(lambda: _is_ready(process, url, log))
        yield


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def query(prometheus: str, expression: str) -> list[str]:
    """Return the values that *expression* has now."""
    return [sample["value"][1] for sample in _query(prometheus, expression)]


def firing_alerts(prometheus: str) -> set[str]:
    """Return the names of the alerts that fire."""
    return {alert["metric"]["alertname"] for alert in _query(prometheus, 'ALERTS{alertstate="firing"}')}


def _query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    response = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, trust_env=False)
    result: list[dict[str, Any]] = response.json()["data"]["result"]
    return result


def find_notice(receiver: Receiver, name: str, skip: int) -> Mapping[str, Any] | None:
    """Return the alert *name*, with its path, if it has arrived after the first *skip* requests."""
    with receiver.lock:
        received = receiver.received[skip:]
    for request in received:
        for alert in json.loads(request.body)["alerts"]:
            if alert["labels"]["alertname"] == name and alert["status"] == "firing":
                return {**alert, "path": request.path}
    return None


def wait_for(poll: Callable[[], Any], seconds: float = 30) -> Any:
    """Call *poll* until its result is truthy; return it. Fails after *seconds*."""
    end = time.monotonic() + seconds
    while not (result := poll()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return result
