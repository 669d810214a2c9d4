"""Builds dashboards of Grafana: panels in a grid, in the JSON form of Grafana's schema version 39."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_COLUMNS, _HEIGHT = 24, 8
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: queries of PromQL by their legends, which may contain labels as ``{{label}}``."""

    title: str
    #: A unit of Grafana: reqps, s, bytes, percentunit, short, …
    unit: str
    queries: dict[str, str]
    #: What a reader cannot see from the title.
    description: str = ""
    #: timeseries or stat.
    type: str = "timeseries"
    #: Of 24 columns.
    width: int = 8
    stacked: bool = False
    #: Colours of a stat, each with the value from which it applies.
    colours: tuple[tuple[float | None, str], ...] = ((None, "green"),)


def stat(
    title: str, unit: str, query: str, *colours: tuple[float | None, str], description: str = ""
) -> Panel:
    """Return a panel that shows the present value of *query*."""
    shown = colours or ((None, "green"),)
    return Panel(title, unit, {"": query}, description, type="stat", width=4, colours=shown)


def low_is_good(warning: float, critical: float) -> tuple[tuple[float | None, str], ...]:
    """Return the colours of a value that should stay below *warning*."""
    return (None, "green"), (warning, "yellow"), (critical, "red")


def high_is_good(critical: float, warning: float) -> tuple[tuple[float | None, str], ...]:
    """Return the colours of a value that should stay above *warning*."""
    return (None, "red"), (critical, "yellow"), (warning, "green")


def build_dashboard(uid: str, title: str, description: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """Return the dashboard *uid* with *panels* from left to right, and downwards."""
    placed, x, y, height = [], 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y, height = 0, y + height, 0
        own_height = _HEIGHT // 2 if panel.type == "stat" else _HEIGHT
        placed.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": own_height}))
        x, height = x + panel.width, max(height, own_height)
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["reelhaul"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "links": [
            {
                "title": "Reelhaul",
                "type": "dashboards",
                "tags": ["reelhaul"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {"list": []},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                    "refresh": 1,
                }
            ]
        },
        "panels": placed,
    }


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "color": {"mode": "palette-classic"}}
    if panel.type == "stat":
        steps = [{"value": value, "color": colour} for value, colour in panel.colours]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
        options: dict[str, Any] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
        }
    else:
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "gridPos": position,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "range": True,
                "instant": False,
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }
