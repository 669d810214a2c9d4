"""``python -m bench NAME [--short]``: measure, print the tables, and end with a line per target."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from pathlib import Path

import uvloop

from bench.report import Report


def main() -> int:
    """0 when it could measure, whatever came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=("fetch", "jobs", "watch"), help="what to measure")
    parser.add_argument(
        "--short", action="store_true", help="under a minute: good for a look, not for a claim"
    )
    parser.add_argument(
        "--only", default="", help="parts to measure, comma separated; each measure names its own"
    )
    asked = parser.parse_args()
    measure = importlib.import_module(f"bench.{asked.name}.measure").measure
    report = Report(asked.name, short=asked.short)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(report, set(filter(None, asked.only.split(",")))))
    report.end(Path(__file__).parent / "results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
