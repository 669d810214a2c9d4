"""SystemService at the gateway: answered here, without a call of another service for the RPC itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from google.protobuf.message import Message
from google.rpc import status_pb2

from reelhaul.system.v1 import system_service_pb2 as pb
from reelhaul_runtime import errors
from reelhaul_runtime.system.service import SystemReports
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.upstream import Handler, InProcessUpstream, UpstreamError

_PATH = "/reelhaul.system.v1.SystemService/"


def system_upstream(
    reports: SystemReports, record: Callable[[str, Message, status_pb2.Status], Awaitable[None]]
) -> InProcessUpstream:
    """Return the upstream that answers the transcoder's calls of SystemService with *reports*.

    *record* records a call in the audit log: its path, its request, how it ended.
    """

    async def check_health(request: pb.CheckHealthRequest, metadata: Metadata) -> Message:
        try:
            return await reports.check_health()
        except errors.ReelhaulError as error:
            raise UpstreamError(errors.to_status(error)) from error

    async def report_health(request: pb.ReportHealthRequest, metadata: Metadata) -> Message:
        return await reports.report_health()

    async def set_log_level(request: pb.SetLogLevelRequest, metadata: Metadata) -> Message:
        path = _PATH + "SetLogLevel"
        try:
            response = await reports.set_log_level(request)
        except errors.ReelhaulError as error:
            await record(path, request, errors.to_status(error))
            raise UpstreamError(errors.to_status(error)) from error
        await record(path, request, status_pb2.Status())
        return response

    async def describe_server(request: pb.DescribeServerRequest, metadata: Metadata) -> Message:
        return await reports.describe_server()

    handlers: dict[str, tuple[type[Message], Handler]] = {
        "CheckHealth": (pb.CheckHealthRequest, check_health),
        "ReportHealth": (pb.ReportHealthRequest, report_health),
        "SetLogLevel": (pb.SetLogLevelRequest, set_log_level),
        "DescribeServer": (pb.DescribeServerRequest, describe_server),
    }
    return InProcessUpstream({_PATH + name: handler for name, handler in handlers.items()})
