"""The shipped dashboards of Grafana, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.observability.expressions import OBSERVABILITY

GRAFANA = OBSERVABILITY / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def read_panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each panel with a name for messages: ``jobs: Queue depth``."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            yield f"{file.stem}: {panel['title']}", panel


def read_queries() -> Iterator[tuple[str, str, str]]:
    """Yield each query as (panel, expression, legend); Grafana's variables have a value."""
    for name, panel in read_panels():
        for target in panel["targets"]:
            yield name, target["expr"].replace("$__rate_interval", "5m"), target["legendFormat"]
