"""The table of ``reelhaul up --status``: processes, what they use and hold, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse, ServingStatus

if TYPE_CHECKING:
    from reelhaul_runtime.up.status import Status

_MB, _GB = 1_000_000, 1_000_000_000
_PROCESS = "{:<8} {:>8} {:<11} {:<28} {:>9} {:>8} {:>8}"
_COMPONENT = "{:<26} {:<11} {}"
_PREFIX = "SERVING_STATUS_"


def format_status(status: Status) -> str:
    """Return *status* for people."""
    lines = [_PROCESS.format("SERVICE", "PID", "STATE", "ADDRESS", "UPTIME", "RSS MB", "PSS MB")]
    for row in status.rows:
        uptime = "-" if row.uptime_seconds is None else f"{row.uptime_seconds:.0f} s"
        memory = (f"{row.rss_bytes / _MB:.1f}", f"{row.pss_bytes / _MB:.1f}")
        lines.append(_PROCESS.format(row.service, row.pid or "-", row.state, row.address, uptime, *memory))
    total = status.total
    lines.append(_PROCESS.format("total", "", "", "", "", f"{total.rss / _MB:.1f}", f"{total.pss / _MB:.1f}"))
    lines += ["", *_format_components(status.health)]
    versions = sorted({process.version for process in status.health.processes if process.version})
    lines += ["", f"reelhaul {', '.join(versions)}: {_name(status.health.status)}"]
    if status.suite.ready_seconds is not None:
        lines.append(f"ready in {status.suite.ready_seconds:.2f} s")
    return "\n".join(line.rstrip() for line in lines)


def _format_components(report: ReportHealthResponse) -> Iterator[str]:
    """Yield a line for each component, and one below it with what to do."""
    yield _COMPONENT.format("COMPONENT", "STATE", "DETAILS")
    for component in _distinct(report):
        details = ", ".join(_details(component))
        state = _name(component.status) if component.status else "unknown"
        yield _COMPONENT.format(component.component, state, details)
        if component.remedy:
            yield _COMPONENT.format("", "", f"-> {component.remedy}")


def _distinct(report: ReportHealthResponse) -> Iterable[ReportHealthResponse.Component]:
    """Return the components of the suite, then those that only its processes report."""
    names = {component.component for component in report.components} | {"jobs.nats"}
    own = [each for process in report.processes for each in process.components if each.component not in names]
    by_name = {
        each.component: each
        for process in report.processes
        for each in process.components
        if each.component in names
    }
    # A process knows more of its component than the check that it passes.
    for component in report.components:
        known = by_name.get("jobs.nats" if component.component == "nats" else component.component)
        if known is not None and known.status == component.status:
            merged = ReportHealthResponse.Component()
            merged.CopyFrom(known)
            merged.MergeFrom(component)
            yield merged
        else:
            yield component
    yield from own


def _details(component: ReportHealthResponse.Component) -> Iterator[str]:
    if component.version:
        yield component.version
    if component.HasField("used_count") and component.HasField("total_count"):
        yield f"{component.used_count} of {component.total_count} in use"
    elif component.HasField("used_count") and not component.message:
        yield str(component.used_count)
    if component.HasField("free_bytes"):
        yield f"{component.free_bytes / _GB:.1f} GB free of {component.total_bytes / _GB:.1f} GB"
    if component.HasField("expire_time"):
        yield f"expires {component.expire_time.ToDatetime(UTC):%Y-%m-%d}"
    if component.message:
        yield component.message
    if component.HasField("change_time") and component.status == ServingStatus.SERVING_STATUS_NOT_SERVING:
        time = component.change_time.ToDatetime(UTC)
        yield f"since {time:%Y-%m-%d %H:%M:%S} UTC ({(datetime.now(UTC) - time).total_seconds():.0f} s)"


def _name(status: ServingStatus.ValueType) -> str:
    return ServingStatus.Name(status).removeprefix(_PREFIX)
