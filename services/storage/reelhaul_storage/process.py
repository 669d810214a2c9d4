"""The state of a process of storage, as it reports it to the suite."""

from __future__ import annotations

from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse
from reelhaul_runtime.system.process_report import ProcessReport
from reelhaul_storage.catalog.store import COMPONENT, SqlCatalog
from reelhaul_storage.service.backend_health import BackendHealth
from reelhaul_storage.settings import Settings

_Component = ReportHealthResponse.Component


def open_process_report(settings: Settings, catalog: SqlCatalog, health: BackendHealth) -> ProcessReport:
    """Return the report of this process: its database and its backend."""

    async def describe_database() -> _Component:
        return _Component(version=await catalog.describe())

    async def describe_backend() -> _Component:
        status = await health.get_status()
        component = _Component(version=status.backend, message=status.problem)
        if status.space is not None:
            component.free_bytes, component.total_bytes = status.space.free, status.space.total
        return component

    return ProcessReport(
        "storage", settings, {COMPONENT: describe_database, "storage.backend": describe_backend}
    )
