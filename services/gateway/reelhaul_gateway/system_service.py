"""SystemService at the gateway: answered here, without a call of another service for the RPC itself."""

from __future__ import annotations

from google.protobuf.message import Message

from reelhaul.system.v1 import system_service_pb2 as pb
from reelhaul_runtime import errors
from reelhaul_runtime.system.service import SystemReports
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.upstream import Handler, InProcessUpstream, UpstreamError

_PATH = "/reelhaul.system.v1.SystemService/"


def system_upstream(reports: SystemReports) -> InProcessUpstream:
    """Return the upstream that answers the transcoder's calls of SystemService with *reports*."""

    async def check_health(request: pb.CheckHealthRequest, metadata: Metadata) -> Message:
        try:
            return await reports.check_health()
        except errors.ReelhaulError as error:
            raise UpstreamError(errors.to_status(error)) from error

    async def report_health(request: pb.ReportHealthRequest, metadata: Metadata) -> Message:
        return await reports.report_health()

    async def describe_server(request: pb.DescribeServerRequest, metadata: Metadata) -> Message:
        return await reports.describe_server()

    handlers: dict[str, tuple[type[Message], Handler]] = {
        "CheckHealth": (pb.CheckHealthRequest, check_health),
        "ReportHealth": (pb.ReportHealthRequest, report_health),
        "DescribeServer": (pb.DescribeServerRequest, describe_server),
    }
    return InProcessUpstream({_PATH + name: handler for name, handler in handlers.items()})
