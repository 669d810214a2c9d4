"""The closing line of ``make verify-deploy``: how many checks passed, failed, and were left out, and why."""

from __future__ import annotations

import time
from collections import Counter

import pytest

_BEGIN = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock."""
    config.stash[_BEGIN] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the line after all that pytest prints."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or "deployment" not in config.option.markexpr:
        return
    counts = {name: len(reporter.stats.get(name, ())) for name in ("passed", "failed", "error", "skipped")}
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())
    )
    skipped = "; ".join(f"{count}: {reason}" for reason, count in sorted(reasons.items()))
    reporter.write_line(
        f"verify-deploy: {counts['passed']} passed, {counts['failed'] + counts['error']} failed, "
        f"{counts['skipped']} skipped{f' ({skipped})' if skipped else ''}, "
        f"{time.monotonic() - config.stash[_BEGIN]:.0f} s"
    )
