"""``python -m bench NAME [--short]``: measure, print the tables, and end with one line per target."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from pathlib import Path

import uvloop

from bench.report import Report


def main() -> int:
    """Run one benchmark; return 0 if it could measure, whatever the result."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "name",
        choices=("auth", "codec", "fetch", "gateway", "idle", "jobs", "storage", "telemetry", "watch"),
        help="what to measure",
    )
    parser.add_argument(
        "--short", action="store_true", help="take under a minute: for a look, not for a claim"
    )
    parser.add_argument(
        "--only", default="", help="parts to measure, comma-separated; see bench/NAME/measure.py"
    )
    arguments = parser.parse_args()
    measure = importlib.import_module(f"bench.{arguments.name}.measure").measure
    report = Report(arguments.name, short=arguments.short)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(report, set(filter(None, arguments.only.split(",")))))
    report.finish(Path(__file__).parent / "results", partial=bool(arguments.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
