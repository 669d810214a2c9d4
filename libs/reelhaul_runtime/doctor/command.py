"""The command: collects the checks of the suite and of the installed services, runs and prints them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

import click

from reelhaul_runtime import service
from reelhaul_runtime.doctor import addresses, broker, machine, processes, setting_checks
from reelhaul_runtime.doctor.check import Check, Level, Result, run_checks
from reelhaul_runtime.settings import ERRORS, SuiteSettings
from reelhaul_runtime.up import data_dir, suite_state
from reelhaul_runtime.up.suite_state import SuiteState

#: Exit codes: 0 without problems, whatever the warnings; 1 with at least one.
OK, PROBLEMS = 0, 1

_LINE = "{:<8} {:<24} {}"


def main(*, as_json: bool) -> int:
    """Run all checks and print what they find; return the exit code."""
    # Libraries log what the checks report themselves.
    logging.getLogger().addHandler(logging.NullHandler())
    results = run_checks(collect_checks())
    levels = Counter(result.finding.level for result in results)
    click.echo(_to_json(results) if as_json else _to_text(results, levels))
    return PROBLEMS if levels["problem"] else OK


def collect_checks() -> list[Check]:
    """Return the checks that can run: all, if the settings can be read."""
    checks = list(setting_checks.checks())
    try:
        settings = SuiteSettings()
    except ERRORS:
        return checks
    suite = _read_suite(settings)
    checks += machine.checks(settings)
    checks += addresses.checks(settings, suite)
    checks += broker.checks(settings, suite)
    for name in service.names():
        try:
            checks += service.load(name).checks()
        except (*ERRORS, ImportError):
            continue  # the checks of the settings say so
    return [*checks, *processes.checks(settings, suite)]


def _read_suite(settings: SuiteSettings) -> SuiteState | None:
    """Return the suite that runs on the data folder; None if there is none, or none that may be seen."""
    folder = settings.data_dir.absolute() / "run"
    try:
        return suite_state.read(folder) if data_dir.is_locked(folder) else None
    except (OSError, ValueError, TypeError):
        return None


def _to_json(results: Sequence[Result]) -> str:
    checks = [
        {
            "check": each.name,
            "level": each.finding.level,
            "fact": each.finding.fact,
            "remedy": each.finding.remedy,
        }
        for each in results
    ]
    levels = {each.finding.level for each in results}
    worst = next(level for level in ("problem", "warning", "ok") if level in levels or level == "ok")
    return json.dumps({"level": worst, "checks": checks})


def _to_text(results: Sequence[Result], levels: Counter[Level]) -> str:
    lines = []
    for each in results:
        lines.append(_LINE.format(each.finding.level, each.name, each.finding.fact))
        if each.finding.remedy:
            lines.append(_LINE.format("", "", f"-> {each.finding.remedy}"))
    return "\n".join(
        [*lines, f"{levels['ok']} ok, {levels['warning']} warnings, {levels['problem']} problems"]
    )
