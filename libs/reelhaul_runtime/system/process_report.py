"""Process report: what a process of a service reports of itself to the others of the suite."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from reelhaul.work.v1 import process_service_pb2, process_service_pb2_grpc
from reelhaul_runtime.log_levels import LogLevels
from reelhaul_runtime.rpc.server import Servicer
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.system.process import (
    NOT_SERVING,
    PROCESS_SERVICE,
    SERVING,
    Component,
    Process,
    certificates,
    describe_process,
    worst_status,
)
from reelhaul_runtime.system.remedies import REMEDIES

#: Returns what is known of a component; its name and its status are added.
Describe = Callable[[], Awaitable[Component]]

_DESCRIBE_SECONDS = 3.0


class ComponentStates(health_aio.HealthServicer):  # type: ignore[misc]
    """The gRPC health of a process, which also knows since when each component has its status."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._now = now
        #: The health of each component and when it became so; the names of proto services are left out.
        self.components: dict[str, tuple[int, datetime]] = {}

    async def set(self, service: str, status: Any) -> None:
        """Set the health of *service* to *status*."""
        if service and not service.startswith("reelhaul."):
            before = self.components.get(service)
            if before is None or before[0] != status:
                self.components[service] = (status, self._now())
        await super().set(service, status)


class ProcessReport(process_service_pb2_grpc.ProcessServiceServicer):
    """The state of this process, and the RPC that returns it."""

    def __init__(self, service: str, settings: SuiteSettings, describe: Mapping[str, Describe]) -> None:
        """*describe*: by the names of components, those that are checked and others."""
        self._service, self._settings, self._describe = service, settings, describe
        self._log_levels = LogLevels()
        #: The health servicer of the process.
        self.states = ComponentStates()

    @property
    def servicer(self) -> Servicer:
        """The RPC, for ``serving``."""
        return (
            process_service_pb2_grpc.add_ProcessServiceServicer_to_server,
            self,
            PROCESS_SERVICE.full_name,
        )

    async def GetProcess(
        self, request: process_service_pb2.GetProcessRequest, context: object
    ) -> process_service_pb2.GetProcessResponse:
        response = process_service_pb2.GetProcessResponse(process=await self.read())
        response.time.FromDatetime(datetime.now(UTC))
        return response

    async def SetLogLevel(
        self, request: process_service_pb2.SetLogLevelRequest, context: object
    ) -> process_service_pb2.SetLogLevelResponse:
        seconds = request.duration.ToTimedelta().total_seconds()
        self._log_levels.apply(request.logger, request.level, seconds)
        return process_service_pb2.SetLogLevelResponse()

    async def read(self) -> Process:
        """Return the state of this process and of its components."""
        names = list(dict.fromkeys([*self.states.components, *self._describe]))
        components = await asyncio.gather(*map(self._component, names))
        process = await asyncio.to_thread(describe_process, self._service, os.getpid())
        process.components.extend(components)
        process.components.extend(certificates(self._service, self._settings))
        process.status = worst_status(process.components)
        return process

    async def _component(self, name: str) -> Component:
        component = Component(status=SERVING)
        if name in self._describe:
            try:
                async with asyncio.timeout(_DESCRIBE_SECONDS):
                    component.MergeFrom(await self._describe[name]())
            except Exception as error:
                # The details need what the component is about: its health says whether that works.
                component.message = f"no details: {type(error).__name__}"
        component.component = name
        if (state := self.states.components.get(name)) is not None:
            health, change_time = state
            component.change_time.FromDatetime(change_time)
            if health != health_pb2.HealthCheckResponse.SERVING:
                component.status = NOT_SERVING
                component.remedy = REMEDIES.get(name, component.remedy)
        return component
