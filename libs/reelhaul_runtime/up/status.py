"""``reelhaul up --status``: which processes run, whether they serve, and their memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Literal

import click

from reelhaul_runtime import service
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import data_dir, probes, procfs, suite_state
from reelhaul_runtime.up.procfs import Memory
from reelhaul_runtime.up.suite_state import SuiteState

#: Exit codes.
OK, DEGRADED, NONE_RUNS = 0, 1, 3

_MB = 1_000_000
_SUPERVISOR = "up"
_TABLE_ROW = "{:<8} {:>8} {:<11} {:<28} {:>9} {:>8} {:>8}"


@dataclass(frozen=True, slots=True)
class Row:
    """One process of the suite, with all its descendants."""

    service: str
    #: None if it does not run now, or runs elsewhere.
    pid: int | None
    state: Literal["SERVING", "NOT_SERVING"]
    address: str
    uptime_seconds: float | None
    rss_bytes: int
    pss_bytes: int


def main(*, as_json: bool) -> int:
    """Print the suite that runs on the configured data folder; return the exit code."""
    return service.check_settings(lambda: _print_status(as_json=as_json))


def _print_status(*, as_json: bool) -> int:
    settings = SuiteSettings()
    folder = settings.data_dir.absolute()
    suite = suite_state.read(folder / "run") if data_dir.is_locked(folder / "run") else None
    if suite is None:
        click.echo(
            json.dumps({"running": False}) if as_json else f"no suite runs on {folder}", err=not as_json
        )
        return NONE_RUNS
    rows = asyncio.run(_collect_rows(suite, settings.tls))
    click.echo(_to_json(suite, rows) if as_json else _to_table(suite, rows))
    return OK if all(row.state == "SERVING" for row in rows) else DEGRADED


async def _collect_rows(suite: SuiteState, tls: TlsFiles | None) -> list[Row]:
    """Return a row for each process of *suite*, the supervisor's last."""
    names = list(suite.addresses)
    ready = await asyncio.gather(
        *(probes.is_ready(suite.addresses[name], suite.health.get(name, ""), 2.0, tls) for name in names)
    )
    rows = [
        _row(name, suite.processes.get(name), is_ready, suite.addresses[name])
        for name, is_ready in zip(names, ready, strict=True)
    ]
    return [*rows, _row(_SUPERVISOR, suite.pid, True, "", alone=True)]


def _row(name: str, pid: int | None, is_ready: bool, address: str, *, alone: bool = False) -> Row:
    """Return the row of *pid*; without its descendants if *alone*."""
    uptime, memory = None, Memory()
    if pid is not None:
        try:
            uptime = round(procfs.age_seconds(pid), 1)
        except ProcessLookupError:
            pid = None
        else:
            pids = [pid] if alone else [pid, *procfs.descendants(pid)]
            memory = sum((procfs.memory(each) for each in pids), Memory())
    state: Literal["SERVING", "NOT_SERVING"] = "SERVING" if is_ready else "NOT_SERVING"
    return Row(name, pid, state, redact_urls(address), uptime, memory.rss, memory.pss)


def _total(rows: list[Row]) -> Memory:
    return sum((Memory(row.rss_bytes, row.pss_bytes) for row in rows), Memory())


def _to_json(suite: SuiteState, rows: list[Row]) -> str:
    total = _total(rows)
    return json.dumps(
        {
            "running": True,
            "ready_seconds": suite.ready_seconds,
            "services": [asdict(row) for row in rows],
            "total": {"rss_bytes": total.rss, "pss_bytes": total.pss},
        }
    )


def _to_table(suite: SuiteState, rows: list[Row]) -> str:
    lines = [_TABLE_ROW.format("SERVICE", "PID", "STATE", "ADDRESS", "UPTIME", "RSS MB", "PSS MB")]
    for row in rows:
        uptime = "-" if row.uptime_seconds is None else f"{row.uptime_seconds:.0f} s"
        memory = (f"{row.rss_bytes / _MB:.1f}", f"{row.pss_bytes / _MB:.1f}")
        lines.append(_TABLE_ROW.format(row.service, row.pid or "-", row.state, row.address, uptime, *memory))
    total = _total(rows)
    lines.append(
        _TABLE_ROW.format("total", "", "", "", "", f"{total.rss / _MB:.1f}", f"{total.pss / _MB:.1f}")
    )
    if suite.ready_seconds is not None:
        lines.append(f"ready in {suite.ready_seconds:.2f} s")
    return "\n".join(lines)
