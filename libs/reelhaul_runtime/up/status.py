"""``reelhaul up --status``: what runs, whether it serves, and the memory it takes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Literal

import click
from pydantic import ValidationError
from pydantic_settings import SettingsError

from reelhaul_runtime.settings import SuiteSettings, describe_errors
from reelhaul_runtime.up import data_dir as ground
from reelhaul_runtime.up import probes, procfs, suite_state
from reelhaul_runtime.up.procfs import Memory

OK, DEGRADED, REFUSED, NONE_RUNS = 0, 1, 2, 3
_MB = 1_000_000
_SUPERVISOR = "up"


@dataclass(frozen=True, slots=True)
class Row:
    """One part, with all processes below it."""

    service: str
    #: None where it runs elsewhere, or not at this moment.
    pid: int | None
    state: Literal["SERVING", "NOT_SERVING"]
    address: str
    uptime_seconds: float | None
    rss_bytes: int
    pss_bytes: int


def main(*, as_json: bool) -> int:
    """Print the suite that runs on the configured data folder; returns the exit code."""
    try:
        data_dir = SuiteSettings().data_dir.absolute()
    except (ValidationError, SettingsError) as error:
        click.echo("\n".join(f"reelhaul: {line}" for line in describe_errors(error)), err=True)
        return REFUSED
    folder = data_dir / "run"
    suite = suite_state.read(folder) if ground.is_locked(folder) else None
    if suite is None:
        click.echo(
            json.dumps({"running": False}) if as_json else f"no suite runs on {data_dir}", err=not as_json
        )
        return NONE_RUNS
    rows = asyncio.run(rows_of(suite))
    click.echo(_as_json(suite, rows) if as_json else _as_table(suite, rows))
    return OK if all(row.state == "SERVING" for row in rows) else DEGRADED


async def rows_of(suite: suite_state.SuiteState) -> list[Row]:
    """A row for each part of *suite*, and the supervisor's own."""
    names = list(suite.addresses)
    ready = await asyncio.gather(
        *(probes.is_ready(suite.addresses[name], suite.health.get(name, ""), 2.0) for name in names)
    )
    rows = [
        _row(name, suite.processes.get(name), good, suite.addresses[name])
        for name, good in zip(names, ready, strict=True)
    ]
    return [*rows, _row(_SUPERVISOR, suite.pid, True, "", alone=True)]


def _row(name: str, pid: int | None, good: bool, address: str, *, alone: bool = False) -> Row:
    uptime, memory = None, Memory()
    if pid is not None:
        try:
            uptime = round(procfs.age_seconds(pid), 1)
        except ProcessLookupError:
            pid = None
        else:
            family = [pid] if alone else [pid, *procfs.descendants(pid)]
            memory = sum((procfs.memory(each) for each in family), Memory())
    return Row(name, pid, "SERVING" if good else "NOT_SERVING", address, uptime, memory.rss, memory.pss)


def _total(rows: list[Row]) -> Memory:
    return sum((Memory(row.rss_bytes, row.pss_bytes) for row in rows), Memory())


def _as_json(suite: suite_state.SuiteState, rows: list[Row]) -> str:
    total = _total(rows)
    return json.dumps(
        {
            "running": True,
            "ready_seconds": suite.ready_seconds,
            "services": [asdict(row) for row in rows],
            "total": {"rss_bytes": total.rss, "pss_bytes": total.pss},
        }
    )


def _as_table(suite: suite_state.SuiteState, rows: list[Row]) -> str:
    form = "{:<8} {:>8} {:<11} {:<28} {:>9} {:>8} {:>8}"
    lines = [form.format("SERVICE", "PID", "STATE", "ADDRESS", "UPTIME", "RSS MB", "PSS MB")]
    for row in rows:
        uptime = "-" if row.uptime_seconds is None else f"{row.uptime_seconds:.0f} s"
        memory = (f"{row.rss_bytes / _MB:.1f}", f"{row.pss_bytes / _MB:.1f}")
        lines.append(form.format(row.service, row.pid or "-", row.state, row.address, uptime, *memory))
    total = _total(rows)
    lines.append(form.format("total", "", "", "", "", f"{total.rss / _MB:.1f}", f"{total.pss / _MB:.1f}"))
    if suite.ready_seconds is not None:
        lines.append(f"ready in {suite.ready_seconds:.2f} s")
    return "\n".join(lines)
