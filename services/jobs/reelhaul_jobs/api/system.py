"""SystemService over gRPC: for callers who use no gateway."""

from __future__ import annotations

from reelhaul.system.v1 import system_service_pb2, system_service_pb2_grpc
from reelhaul_runtime.system.service import SystemReports


class SystemServicer(system_service_pb2_grpc.SystemServiceServicer):
    """The RPCs of SystemService."""

    def __init__(self, reports: SystemReports) -> None:
        self._reports = reports

    async def CheckHealth(
        self, request: system_service_pb2.CheckHealthRequest, context: object
    ) -> system_service_pb2.CheckHealthResponse:
        return await self._reports.check_health()

    async def ReportHealth(
        self, request: system_service_pb2.ReportHealthRequest, context: object
    ) -> system_service_pb2.ReportHealthResponse:
        return await self._reports.report_health()

    async def SetLogLevel(
        self, request: system_service_pb2.SetLogLevelRequest, context: object
    ) -> system_service_pb2.SetLogLevelResponse:
        return await self._reports.set_log_level(request)

    async def DescribeServer(
        self, request: system_service_pb2.DescribeServerRequest, context: object
    ) -> system_service_pb2.DescribeServerResponse:
        return await self._reports.describe_server()
