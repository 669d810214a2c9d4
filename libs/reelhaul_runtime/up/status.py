"""``reelhaul up --status``: the suite of this data folder, as ``/health/detailed`` reports it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import click

from reelhaul_runtime import service
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import data_dir, probes, procfs, suite_state
from reelhaul_runtime.up.procfs import Memory
from reelhaul_runtime.up.suite_state import SuiteState

if TYPE_CHECKING:
    from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse

#: Exit codes.
OK, DEGRADED, NONE_RUNS = 0, 1, 3

_SUPERVISOR = "up"


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


@dataclass(frozen=True, slots=True)
class Status:
    """A suite that runs: its processes, and what they and their checks report."""

    suite: SuiteState
    rows: list[Row]
    health: ReportHealthResponse

    @property
    def total(self) -> Memory:
        """The memory of all processes."""
        return sum((Memory(row.rss_bytes, row.pss_bytes) for row in self.rows), Memory())

    @property
    def is_ok(self) -> bool:
        """Whether all processes serve, and nothing is degraded."""
        from reelhaul_runtime.system.health import SERVING

        return self.health.status == SERVING and all(row.state == "SERVING" for row in self.rows)


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
    token = settings.suite_token or data_dir.load_suite_token(folder / "run")
    status = asyncio.run(_read_status(suite, settings, token))
    if as_json:
        click.echo(_to_json(status))
    else:
        from reelhaul_runtime.up import status_table

        click.echo(status_table.format_status(status))
    return OK if status.is_ok else DEGRADED


async def _read_status(suite: SuiteState, settings: SuiteSettings, token: str) -> Status:
    rows, health = await asyncio.gather(
        _collect_rows(suite, settings.tls), _report_health(suite, settings, token)
    )
    return Status(suite, rows, health)


async def _report_health(suite: SuiteState, settings: SuiteSettings, token: str) -> ReportHealthResponse:
    """Return what /health/detailed of the gateway reports; this works while the gateway is down, too."""
    from reelhaul_runtime.system.service import degrade, describe_own, open_reports

    # As the gateway of the suite asks them: replicas of a service may be on other machines, too.
    replicas = {name: getattr(settings, f"{name}_addresses") for name in ("jobs", "fetcher", "storage")}
    addresses = {**suite.addresses, **{name: value for name, value in replicas.items() if value}}
    async with open_reports(addresses, settings, token) as reports:
        report = await reports.report_health()
    if (pid := suite.processes.get("gateway")) is not None:
        address = suite.addresses["gateway"].rpartition("/")[2]
        addressed = settings.model_copy(update={"gateway_address": address})
        try:
            gateway = describe_own("gateway", addressed, pid)
        except ProcessLookupError:
            return report
        report.uptime.CopyFrom(gateway.uptime)
        processes = [gateway, *report.processes]
        del report.processes[:]
        report.processes.extend(processes)
        report.status = degrade(report.status, [gateway])
    return report


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


def _to_json(status: Status) -> str:
    from google.protobuf.json_format import MessageToDict

    total = status.total
    return json.dumps(
        {
            "running": True,
            "ready_seconds": status.suite.ready_seconds,
            "services": [asdict(row) for row in status.rows],
            "total": {"rss_bytes": total.rss, "pss_bytes": total.pss},
            "health": MessageToDict(status.health),
        }
    )
