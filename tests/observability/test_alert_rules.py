"""The rules of Prometheus and the routes of Alertmanager, checked by their own tools and against Reelhaul."""

from __future__ import annotations

import re
import shlex
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import yaml
from tests.observability.dashboards import read_queries
from tests.observability.expressions import (
    OBSERVABILITY,
    ROOT,
    documented_metrics,
    documented_values,
    find_mistakes,
    selectors,
)
from tests.observability.rules import RULES, UNIT_TESTS, Alert, alerts, all_rules, records

from reelhaul.cli.commands import reelhaul
from reelhaul.jobs.v1.job_pb2 import Job, Wait
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.ytdlp.version import OLD_DAYS
from reelhaul_runtime.addresses import non_global_reason
from reelhaul_runtime.metrics import buckets

_RUNBOOKS = ROOT / "docs/runbooks"
#: Labels of Prometheus, and those whose values are names of routes, statuses and loops.
_OPEN_LABELS = {"job", "alertstate", "severity", "http_route", "http_response_status_code", "loop"}
_BY_NAME = [pytest.param(alert, id=f"{alert.name}-{alert.severity}") for alert in alerts()]


def run(*command: str | Path) -> str:
    """Run *command*, which must succeed; return its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid(programs: Path):
    """Prometheus accepts the rules, and the configurations for one machine and for compose."""
    run(programs / "promtool", "check", "rules", "--lint-fatal", *RULES)
    for config in ("prometheus.yml", "prometheus.compose.yml"):
        run(programs / "promtool", "check", "config", "--syntax-only", OBSERVABILITY / "prometheus" / config)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_alerts_fire(programs: Path, file: Path):
    """Each alert is silent while nothing is wrong, and fires when something is."""
    run(programs / "promtool", "test", "rules", file)


def test_each_alert_has_unit_tests():
    """The unit tests show of each alert that it fires, and that it does not always."""
    fires, silent = set(), set()
    for file in UNIT_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case["promql_expr_test"]:
                (selector,) = selectors(check["expr"])
                alert = selector.matchers["alertname"], selector.matchers["severity"]
                (fires if check["exp_samples"] else silent).add(alert)
    shipped = {(alert.name, alert.severity) for alert in alerts()} - {("ReelhaulWatchdog", "none")}
    assert fires == shipped
    assert silent == shipped


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_metrics_exist(rule: dict[str, Any]):
    """Rules use metrics and labels that docs/metrics.md has, and records that exist."""
    assert find_mistakes(rule["expr"], documented_metrics(), records()) == []


def test_mistakes_are_found():
    """A metric, a label of it, and a label to group by that do not exist are mistakes."""
    assert find_mistakes('sum by (nobody) (reelhaul_jobs{stat="x"}) + nothing', documented_metrics()) == [
        "reelhaul_jobs has no label nobody",
        "reelhaul_jobs has no label stat",
        "there is no metric nothing",
    ]


@pytest.mark.parametrize("alert", _BY_NAME)
def test_annotations(alert: Alert):
    """Each alert says what happens and what to do, and has a page that says more."""
    assert alert.severity in ("critical", "warning", "none")
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert len(alert.annotations["summary"]) < 70
    assert alert.annotations["description"].endswith(".")
    assert alert.annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"


def test_runbooks():
    """There is a page for each alert, in the same form, and none for an alert that is no more."""
    names = {alert.name for alert in alerts()}
    assert {page.stem for page in _RUNBOOKS.glob("*.md")} == names | {"README"}
    for name in names:
        headings = re.findall(r"^#+ (.+)$", (_RUNBOOKS / f"{name}.md").read_text(), re.MULTILINE)
        assert headings == [name, "Meaning", "Impact", "First look", "Causes", "Remedy"], name
        assert f"({name}.md)" in (_RUNBOOKS / "README.md").read_text()


def test_runbook_expressions():
    """The queries of runbooks select metrics that exist."""
    for page in _RUNBOOKS.glob("*.md"):
        for block in re.findall(r"^```promql\n(.+?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for expression in block.strip().split("\n\n"):
                assert find_mistakes(expression, documented_metrics(), records()) == [], page.name


def test_runbook_commands():
    """The commands and the settings that runbooks name exist."""
    settings = set(re.findall(r"^#(REELHAUL_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for page in _RUNBOOKS.glob("*.md"):
        text = page.read_text()
        for line in re.findall(r"(?:^|`)reelhaul ([a-z][^`\n|]+)", text, re.MULTILINE):
            command, words = reelhaul, shlex.split(line)
            while isinstance(command, click.Group):
                found = command.get_command(click.Context(command), words.pop(0))
                assert found is not None, f"{page.name}: {line}"
                command = found
            options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            assert {word for word in words if word.startswith("-")} <= options, f"{page.name}: {line}"
        assert set(re.findall(r"`(REELHAUL_\w+)`", text)) - {"REELHAUL_API_KEY"} <= settings, page.name


def test_runbook_log_fields():
    """The fields of log lines that runbooks select by are those of docs/logs.md."""
    fields = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/logs.md").read_text(), re.MULTILINE))
    for page in _RUNBOOKS.glob("*.md"):
        for line in re.findall(r"^\$LOG.+", page.read_text(), re.MULTILINE):
            assert set(re.findall(r"\.([a-z_]+)", line)) <= fields, page.name


def test_label_values_exist():
    """The values that queries select are those of the protos, of buckets, or of docs/metrics.md."""
    addresses = ("127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.0.1")
    known = {
        "reason": {*ErrorReason.keys(), "metadata", *map(non_global_reason, map(ip_address, addresses))},
        "state": set(Job.State.keys()),
        "priority": set(Job.Priority.keys()),
        "wait_reason": set(Wait.Reason.keys()),
        "le": {str(bound) for bound in (*buckets.CALLS, *buckets.WORK)},
        "grpc_code": {code.name for code in grpc.StatusCode},
    }
    queries = [rule["expr"] for rule in all_rules()] + [expression for _, expression, _ in read_queries()]
    for selector in (each for query in queries for each in selectors(query)):
        documented = documented_values().get(selector.metric, frozenset())
        for label, value in selector.matchers.items():
            if label not in _OPEN_LABELS:
                assert set(value.split("|")) <= known.get(label, set()) | documented, selector


def test_engine_age():
    """The alert about an old engine fires when the fetcher's own warning comes."""
    (alert,) = (alert for alert in alerts() if alert.name == "ReelhaulEngineOld")
    assert f"> {OLD_DAYS} * 86400" in alert.expression


def test_routes(programs: Path):
    """Alertmanager sends critical alerts, warnings and the watchdog to receivers of their own."""
    config = OBSERVABILITY / "alertmanager/alertmanager.yml"
    run(programs / "amtool", "check-config", config)
    for alert in {alert.severity: alert for alert in alerts()}.values():
        labels = f"alertname={alert.name}", f"severity={alert.severity}", "job=reelhaul-jobs"
        receiver = run(programs / "amtool", "config", "routes", "test", f"--config.file={config}", *labels)
        expected = "watchdog" if alert.name == "ReelhaulWatchdog" else alert.severity
        assert receiver.strip() == expected
