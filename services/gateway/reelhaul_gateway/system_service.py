"""SystemService, which the gateway answers itself."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from importlib import metadata

from google.protobuf import duration_pb2
from google.protobuf.message import Message

from reelhaul.system.v1 import system_service_pb2 as pb
from reelhaul_gateway import model
from reelhaul_gateway.health import Health
from reelhaul_gateway.routes import SERVICES
from reelhaul_runtime import errors
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.upstream import Handler, InProcess, UpstreamError

_PATH = "/reelhaul.system.v1.SystemService/"
_MAX_BATCH = 500
_CONTAINERS = ("mp4", "webm", "mkv", "mp3", "m4a", "opus", "flac", "wav", "ogg")
_MAX_CHUNK = 1 << 20


class SystemServicer:
    """How the suite is and what it can do."""

    def __init__(self, health: Health, *, authenticates: bool) -> None:
        self._health, self._authenticates = health, authenticates

    async def check_health(self, request: pb.CheckHealthRequest, metadata: Metadata) -> Message:
        """CheckHealth: UNAVAILABLE where the suite is down."""
        findings = await self._health.cached_status()
        status = model.verdict(findings)
        if status == model.NOT_SERVING:
            down = next(f for f in findings if f.critical and f.status == model.NOT_SERVING)
            failure = errors.Unavailable(down.name, down.message or f"{down.name} is not serving")
            raise UpstreamError(errors.to_status(failure))
        return pb.CheckHealthResponse(status=status, version=version())

    async def report_health(self, request: pb.ReportHealthRequest, metadata: Metadata) -> Message:
        """ReportHealth: OK also where something is down."""
        findings = await self._health.full_check()
        return pb.ReportHealthResponse(
            status=model.verdict(findings),
            components=[_component(finding) for finding in findings],
            uptime=_duration(self._health.uptime),
        )

    async def describe_server(self, request: pb.DescribeServerRequest, metadata: Metadata) -> Message:
        """DescribeServer."""
        served = {service.file.package for services in SERVICES.values() for service in services}
        return pb.DescribeServerResponse(
            version=version(),
            api_versions=sorted(served),
            max_batch_size=_MAX_BATCH,
            containers=_CONTAINERS,
            max_chunk_bytes=_MAX_CHUNK,
            authentication_required=self._authenticates,
        )

    def upstream(self) -> InProcess:
        """This servicer as what answers the transcoder's calls."""
        handlers: dict[str, tuple[type[Message], Handler]] = {
            "CheckHealth": (pb.CheckHealthRequest, self.check_health),
            "ReportHealth": (pb.ReportHealthRequest, self.report_health),
            "DescribeServer": (pb.DescribeServerRequest, self.describe_server),
        }
        return InProcess({_PATH + name: handler for name, handler in handlers.items()})


@cache
def version() -> str:
    """The version of this installation; ``0`` where it runs from a bare tree."""
    try:
        return metadata.version("reelhaul")
    except metadata.PackageNotFoundError:
        return "0"


def _component(finding: model.Finding) -> pb.ReportHealthResponse.Component:
    return pb.ReportHealthResponse.Component(
        component=finding.name,
        status=finding.status,
        latency=None if finding.seconds is None else _duration(finding.seconds),
        message=finding.message,
        critical=finding.critical,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made
