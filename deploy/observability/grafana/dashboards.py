"""The dashboards of Grafana: ``python deploy/observability/grafana/dashboards.py`` writes them as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import service_panels
import suite_panels
from builder import build_dashboard

DASHBOARDS = {
    "overview": ("Reelhaul overview", "Whether the suite works, at a glance.", suite_panels.OVERVIEW),
    "jobs": (
        "Reelhaul jobs",
        "The queue, the outcomes of jobs, fetchers as jobs sees them, webhooks.",
        service_panels.JOBS,
    ),
    "fetcher": ("Reelhaul fetchers", "Slots, stages, sites, egress and the engine.", service_panels.FETCHER),
    "storage": (
        "Reelhaul storage",
        "The backend, uploads, links, scrubbing and garbage collection.",
        service_panels.STORAGE,
    ),
    "gateway": (
        "Reelhaul gateway",
        "Requests, latency, connections and streams of the HTTP API.",
        service_panels.GATEWAY,
    ),
    "services": (
        "Reelhaul services",
        "RPCs of each service, and the resources that it uses.",
        suite_panels.SERVICES,
    ),
    "slos": (
        "Reelhaul objectives",
        "Service level objectives and how fast their error budgets burn.",
        suite_panels.SLOS,
    ),
}


def build() -> dict[str, dict[str, Any]]:
    """Return the dashboards by the names of their files."""
    return {
        f"{name}.json": build_dashboard(f"reelhaul-{name}", title, description, panels)
        for name, (title, description, panels) in DASHBOARDS.items()
    }


def main() -> None:
    """Write the dashboards into their folder, or into the one that the first argument names."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards"
    for name, dashboard in build().items():
        (folder / name).write_text(json.dumps(dashboard, indent=2) + "\n")


if __name__ == "__main__":
    main()
