"""SystemService: what its RPCs answer, whoever serves them."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf import duration_pb2

from reelhaul.system.v1 import system_service_pb2 as pb
from reelhaul_runtime import errors
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.system.health import NOT_SERVING, CheckResult, Health, overall_status
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


class SystemReports:
    """Reports the health and the capabilities of the suite."""

    def __init__(self, health: Health, settings: SuiteSettings) -> None:
        self._health, self._settings = health, settings

    async def check_health(self) -> pb.CheckHealthResponse:
        """Return whether the suite takes work. Raises SERVICE_UNAVAILABLE if it is down."""
        results = await self._health.cached_status()
        status = overall_status(results)
        if status == NOT_SERVING:
            down = next(r for r in results if r.critical and r.status == NOT_SERVING)
            raise errors.Unavailable(down.name, down.message or f"{down.name} is not serving")
        return pb.CheckHealthResponse(status=status, version=version())

    async def report_health(self) -> pb.ReportHealthResponse:
        """Check all components; down ones are no error."""
        results = await self._health.full_check()
        return pb.ReportHealthResponse(
            status=overall_status(results),
            components=[_to_component(result) for result in results],
            uptime=_to_duration(self._health.uptime),
        )

    def describe_server(self) -> pb.DescribeServerResponse:
        """Return versions, limits and capabilities."""
        return pb.DescribeServerResponse(
            version=version(),
            api_versions=API_VERSIONS,
            max_batch_size=_MAX_BATCH_SIZE,
            containers=_CONTAINERS,
            max_chunk_bytes=_MAX_CHUNK_BYTES,
            authentication_required=self._settings.auth != "none",
            oidc_issuer=self._settings.oidc_issuer,
            oidc_audience=self._settings.oidc_audience,
        )


def _to_component(result: CheckResult) -> pb.ReportHealthResponse.Component:
    return pb.ReportHealthResponse.Component(
        component=result.name,
        status=result.status,
        latency=None if result.seconds is None else _to_duration(result.seconds),
        message=result.message,
        critical=result.critical,
        free_bytes=result.free_bytes,
        total_bytes=result.total_bytes,
    )


def _to_duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
