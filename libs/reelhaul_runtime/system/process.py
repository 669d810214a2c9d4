"""Process: what /proc and the settings say of a process of a service."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse, ServingStatus
from reelhaul.work.v1 import process_service_pb2
from reelhaul_runtime.certificate import CertificateError, read_expiry
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.system.remedies import CERTIFICATE
from reelhaul_runtime.up import procfs
from reelhaul_runtime.version import version

Component: TypeAlias = ReportHealthResponse.Component
Process: TypeAlias = ReportHealthResponse.Process

PROCESS_SERVICE = process_service_pb2.DESCRIPTOR.services_by_name["ProcessService"]

SERVING = ServingStatus.SERVING_STATUS_SERVING
DEGRADED = ServingStatus.SERVING_STATUS_DEGRADED
NOT_SERVING = ServingStatus.SERVING_STATUS_NOT_SERVING

#: How long before its end an expiring certificate is reported as degraded.
_EXPIRES_SOON = timedelta(days=7)


def describe_process(service: str, pid: int) -> Process:
    """Return the process *pid* of *service* as /proc shows it. Raises ProcessLookupError."""
    memory = sum(map(procfs.memory, [pid, *procfs.descendants(pid)]), procfs.Memory())
    process = Process(
        service=service,
        status=SERVING,
        version=version(),
        host=socket.gethostname(),
        pid=pid,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
    )
    process.uptime.FromTimedelta(timedelta(seconds=round(procfs.age_seconds(pid), 1)))
    return process


def certificates(service: str, settings: SuiteSettings) -> list[Component]:
    """Return a component for each certificate that *service* uses by *settings*, with its expiry."""
    files = {f"{service}.certificate": settings.tls_certificate}
    if service == "gateway":
        files["gateway.https_certificate"] = settings.gateway_tls_certificate
    else:
        files[f"{service}.nats_certificate"] = settings.nats_certificate
    return [_certificate(name, file) for name, file in files.items() if file is not None]


def _certificate(name: str, file: Path) -> Component:
    component = Component(component=name, status=SERVING)
    try:
        expiry = read_expiry(file)
    except CertificateError as error:
        return Component(component=name, status=DEGRADED, message=str(error), remedy=CERTIFICATE)
    component.expire_time.FromDatetime(expiry)
    now = datetime.now(UTC)
    if expiry - now < _EXPIRES_SOON:
        component.status, component.remedy = DEGRADED, CERTIFICATE
        verb = "has expired" if expiry <= now else "expires"
        component.message = f"{file} {verb} at {expiry:%Y-%m-%d %H:%M} UTC"
    return component


def worst_status(components: Any) -> ServingStatus.ValueType:
    """Return the status of a process with *components*: SERVING if all are."""
    statuses = {component.status for component in components}
    if NOT_SERVING in statuses:
        return NOT_SERVING
    return DEGRADED if DEGRADED in statuses else SERVING
