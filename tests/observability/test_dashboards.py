"""The dashboards of Grafana: generated, complete, and about metrics that exist.

No Grafana runs here: the fields are compared with those of its dashboard model, schema version 39.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.observability.dashboards import DASHBOARDS, GRAFANA, read_panels, read_queries
from tests.observability.expressions import documented_metrics, find_mistakes, selectors
from tests.observability.rules import all_rules, records

_QUERIES = [pytest.param(*query[1:], id=f"{query[0]} {query[2]}") for query in read_queries()]
_PANELS = [pytest.param(panel, id=name) for name, panel in read_panels()]
#: Of Grafana's unit formats (packages/grafana-data/src/valueFormats).
_UNITS = {"short", "none", "percentunit", "s", "bytes", "Bps", "ops", "reqps"}
_PANEL_FIELDS = {
    "id",
    "type",
    "title",
    "description",
    "gridPos",
    "datasource",
    "fieldConfig",
    "options",
    "targets",
}
_DASHBOARD_FIELDS = {
    "uid",
    "title",
    "description",
    "tags",
    "schemaVersion",
    "version",
    "editable",
    "graphTooltip",
    "timezone",
    "time",
    "refresh",
    "links",
    "annotations",
    "templating",
    "panels",
}


def test_generated(tmp_path: Path):
    """The files are what the generator writes."""
    subprocess.run([sys.executable, GRAFANA / "dashboards.py", tmp_path], check=True, timeout=60)
    assert {file.name: file.read_text() for file in DASHBOARDS} == {
        file.name: file.read_text() for file in tmp_path.iterdir()
    }


@pytest.mark.parametrize(("expression", "legend"), _QUERIES)
def test_queries(expression: str, legend: str):
    """Each query parses, and its metrics and labels exist, those of its legend too."""
    assert find_mistakes(expression, documented_metrics(), records()) == []
    labels = {"job", "instance"}
    for selector in selectors(expression):
        labels |= selector.labels | documented_metrics().get(selector.metric, frozenset())
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels


def test_all_metrics_are_shown():
    """Each metric that docs/metrics.md has is in a dashboard or in a rule."""
    queries = [expression for _, expression, _ in read_queries()] + [rule["expr"] for rule in all_rules()]
    used = {selector.metric for query in queries for selector in selectors(query)}
    shown = used | {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in used}
    assert documented_metrics().keys() - shown == set()


@pytest.mark.parametrize("panel", _PANELS)
def test_panels(panel: dict):
    """Each panel has a title, a unit that Grafana knows, a place in the grid, and queries."""
    assert panel.keys() == _PANEL_FIELDS
    assert panel["type"] in ("timeseries", "stat")
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in _UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])
    assert all(target["expr"] and target["datasource"] == panel["datasource"] for target in panel["targets"])


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_layout(file: Path):
    """A dashboard has a fixed address, its data source as a variable, and panels that do not overlap."""
    dashboard = json.loads(file.read_text())
    assert dashboard.keys() == _DASHBOARD_FIELDS
    assert dashboard["uid"] == f"reelhaul-{file.stem}"
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_provisioning():
    """Grafana finds Prometheus under the environment's URL, and the dashboards in their folder."""
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())
    assert {source["type"]: source["url"] for source in sources["datasources"]} == {
        "prometheus": "$PROMETHEUS_URL",
        "alertmanager": "$ALERTMANAGER_URL",
    }
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/reelhaul.yml").read_text())["providers"]
    assert (provider["type"], provider["options"]) == ("file", {"path": "/etc/grafana/dashboards"})
