"""SystemService: what its RPCs answer, whoever serves them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

from google.protobuf import duration_pb2

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.storage.v1.storage_service_pb2 import StorageStatus
from reelhaul.system.v1 import system_service_pb2 as pb
from reelhaul.system.v1.system_service_pb2 import ServingStatus
from reelhaul.work.v1 import process_service_pb2
from reelhaul_runtime import errors
from reelhaul_runtime.log_levels import LogLevels, check_request
from reelhaul_runtime.rpc.channels import open_channel
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.system.checks import GrpcHealthChecker, StorageHealthProbe
from reelhaul_runtime.system.health import (
    DEGRADED,
    DEPENDENCIES,
    NOT_SERVING,
    SERVICES,
    SERVING,
    CheckResult,
    Health,
    overall_status,
)
from reelhaul_runtime.system.process import (
    Component,
    Process,
    certificates,
    describe_process,
    worst_status,
)
from reelhaul_runtime.system.processes import ProcessReader
from reelhaul_runtime.system.remedies import REMEDIES
from reelhaul_runtime.version import version

#: The proto packages whose services callers may use.
API_VERSIONS = (
    "reelhaul.admin.v1",
    "reelhaul.downloads.v1",
    "reelhaul.fetcher.v1",
    "reelhaul.jobs.v1",
    "reelhaul.storage.v1",
    "reelhaul.system.v1",
)
_MAX_BATCH_SIZE = 500
_CONTAINERS = ("mp4", "webm", "mkv", "mp3", "m4a", "opus", "flac", "wav", "ogg")
_MAX_CHUNK_BYTES = 1 << 20


# The engine and the limit change with a restart of a service; one that does not answer is called sooner.
_CAPABILITIES_SECONDS, _INCOMPLETE_SECONDS = 60.0, 5.0
_CAPABILITIES_TIMEOUT_SECONDS = 6.0
_SERVICES = {
    "jobs": job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    "storage": storage_service_pb2.DESCRIPTOR.services_by_name["StorageService"],
    "fetcher": fetcher_service_pb2.DESCRIPTOR.services_by_name["FetcherService"],
}
_HEALTH_NAMES = {component.name: component.health_name for component in (*SERVICES, *DEPENDENCIES)}


class SystemReports:
    """Reports the health and the capabilities of the suite."""

    def __init__(
        self, health: Health, settings: SuiteSettings, processes: ProcessReader, *, own_service: str = ""
    ) -> None:
        """*own_service*: the service of this process if *processes* does not read it."""
        self._health, self._settings, self._processes = health, settings, processes
        self._own_service = own_service
        self._log_levels = LogLevels()
        self._capabilities, self._capabilities_end = ("", 0), 0.0
        self._reading_capabilities = asyncio.Lock()

    async def check_health(self) -> pb.CheckHealthResponse:
        """Return whether the suite takes work. Raises SERVICE_UNAVAILABLE if it is down."""
        results = await self._health.cached_status()
        status = overall_status(results)
        if status == NOT_SERVING:
            down = next(r for r in results if r.critical and r.status == NOT_SERVING)
            raise errors.Unavailable(down.name, down.message or f"{down.name} is not serving")
        return pb.CheckHealthResponse(status=status, version=version())

    async def report_health(self) -> pb.ReportHealthResponse:
        """Check all components and ask all processes; down ones are no error."""
        results, processes = await asyncio.gather(self._health.full_check(), self._processes.read())
        if self._own_service:
            processes.insert(0, await asyncio.to_thread(describe_own, self._own_service, self._settings))
        return health_report(results, processes, self._health.uptime)

    async def set_log_level(self, request: pb.SetLogLevelRequest) -> pb.SetLogLevelResponse:
        """Change the log level of the processes that *request* names. Raises FIELD_INVALID."""
        seconds = check_request(request)
        own = [self._own_service] if self._own_service else []
        known = [*own, *self._processes.services]
        if request.service and request.service not in known:
            raise errors.FieldInvalid("service", f"must be one of {', '.join(known)} here, or empty")
        services = [request.service] if request.service else known
        call = process_service_pb2.SetLogLevelRequest(level=request.level, logger=request.logger)
        call.duration.FromTimedelta(timedelta(seconds=seconds))
        others = [service for service in services if service not in own]
        processes = await self._processes.set_log_level(others, call)
        for service in own:
            if service in services:
                self._log_levels.apply(request.logger, request.level, seconds)
                address = getattr(self._settings, f"{service}_address")
                processes.insert(0, pb.SetLogLevelResponse.Process(service=service, address=address))
        return pb.SetLogLevelResponse(processes=processes)

    async def describe_server(self) -> pb.DescribeServerResponse:
        """Return versions, limits and capabilities."""
        engine_version, max_artifact_bytes = await self._read_capabilities()
        return pb.DescribeServerResponse(
            version=version(),
            engine_version=engine_version,
            api_versions=API_VERSIONS,
            max_batch_size=_MAX_BATCH_SIZE,
            max_artifact_bytes=max_artifact_bytes,
            containers=_CONTAINERS,
            max_chunk_bytes=_MAX_CHUNK_BYTES,
            authentication_required=self._settings.auth != "none",
            oidc_issuer=self._settings.oidc_issuer,
            oidc_audience=self._settings.oidc_audience,
        )

    async def _read_capabilities(self) -> tuple[str, int]:
        """Return the oldest engine in use and the largest artifact, as read at most a minute ago."""
        async with self._reading_capabilities:
            if time.monotonic() >= self._capabilities_end:
                reading = asyncio.gather(self._processes.read(["fetcher"]), self._health.get_storage_status())
                fetchers: list[Process] = []
                status: StorageStatus | None = None
                with suppress(TimeoutError):
                    fetchers, status = await asyncio.wait_for(reading, _CAPABILITIES_TIMEOUT_SECONDS)
                engine = _oldest_engine(fetchers)
                self._capabilities = engine, status.max_artifact_bytes if status else 0
                lasting = _CAPABILITIES_SECONDS if engine and status else _INCOMPLETE_SECONDS
                self._capabilities_end = time.monotonic() + lasting
        return self._capabilities


@asynccontextmanager
async def open_reports(
    addresses: Mapping[str, str], settings: SuiteSettings, suite_token: str
) -> AsyncIterator[SystemReports]:
    """Open reports on the suite whose jobs, storage and fetcher are at *addresses*, until the block exits."""
    async with AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(
                open_channel(addresses[name], [service], suite_token=suite_token, tls=settings.tls)
            )
            for name, service in _SERVICES.items()
        }
        health = Health(GrpcHealthChecker(opened), StorageHealthProbe(opened["storage"]))
        targets = {name: addresses[name] for name in _SERVICES}
        yield SystemReports(health, settings, ProcessReader(targets, suite_token, settings.tls))


def describe_own(service: str, settings: SuiteSettings, pid: int = 0) -> Process:
    """Return the process *pid* (default: this one) of *service*, which serves no ProcessService."""
    process = describe_process(service, pid or os.getpid())
    process.address = getattr(settings, f"{service}_address")
    process.components.extend(certificates(service, settings))
    process.status = worst_status(process.components)
    return process


def health_report(
    results: Sequence[CheckResult], processes: Sequence[Process], uptime: float
) -> pb.ReportHealthResponse:
    """Return the report of checks with *results* and of *processes*."""
    return pb.ReportHealthResponse(
        status=degrade(overall_status(results), processes),
        components=[_to_component(result, processes) for result in results],
        uptime=_to_duration(uptime),
        processes=processes,
    )


def degrade(status: ServingStatus.ValueType, processes: Sequence[Process]) -> ServingStatus.ValueType:
    """Return *status*, but DEGRADED for SERVING if one of *processes* is not well."""
    is_degraded = any(process.status in (DEGRADED, NOT_SERVING) for process in processes)
    return DEGRADED if status == SERVING and is_degraded else status


def _to_component(result: CheckResult, processes: Sequence[Process]) -> Component:
    component = Component(
        component=result.name,
        status=result.status,
        latency=None if result.seconds is None else _to_duration(result.seconds),
        message=result.message,
        critical=result.critical,
        free_bytes=result.free_bytes,
        total_bytes=result.total_bytes,
    )
    if result.status == NOT_SERVING:
        component.remedy = REMEDIES.get(result.name, "")
    # What the processes know of it, the longest outage first.
    name = _HEALTH_NAMES.get(result.name)
    known = [each for process in processes for each in process.components if each.component == name]
    for each in sorted(known, key=lambda each: each.change_time.ToNanoseconds()):
        component.version = component.version or each.version
        if each.status == result.status and not component.HasField("change_time"):
            component.change_time.CopyFrom(each.change_time)
            component.message = component.message or each.message
            component.remedy = component.remedy or each.remedy
    return component


def _oldest_engine(fetchers: Sequence[Process]) -> str:
    """Return the oldest engine of *fetchers*, e.g. "yt-dlp 2026.10.26"; empty if none is live."""
    engines = {
        component.version
        for process in fetchers
        for component in process.components
        if component.component == "fetcher.engine" and component.version
    }
    return min(engines, key=lambda engine: [int(part) for part in re.findall(r"[0-9]+", engine)], default="")


def _to_duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
