"""Processes: asks every replica of every service for its state, or changes its log level."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import grpc
from grpc import aio

from reelhaul.system.v1.system_service_pb2 import SetLogLevelResponse
from reelhaul.work.v1 import process_service_pb2, process_service_pb2_grpc
from reelhaul_runtime.certificate import TlsFiles
from reelhaul_runtime.rpc import channels
from reelhaul_runtime.server_addresses import may_be_several, split_addresses
from reelhaul_runtime.system.process import DEGRADED, NOT_SERVING, PROCESS_SERVICE, Component, Process
from reelhaul_runtime.system.remedies import CLOCKS, REMEDIES

_TIMEOUT_SECONDS = 5.0
# Of a process that answers: one of an earlier build, or one that does not know the suite's credential.
_SILENT_CODES = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
_MAX_REPLICAS = 64
# Certificates, signed links and leases tolerate less than that.
_MAX_CLOCK_OFFSET = timedelta(seconds=2)


class ProcessReader:
    """Asks the services at *targets* (addresses by name; a list or a DNS name may be several)."""

    def __init__(self, targets: Mapping[str, str], suite_token: str, tls: TlsFiles | None) -> None:
        self._targets, self._suite_token, self._tls = targets, suite_token, tls

    async def read(self, services: Sequence[str] = ()) -> list[Process]:
        """Return the processes of *services* (default: all), in their order.

        Those that do not answer are NOT_SERVING.
        """
        asking = (self._read_service(name) for name in self._targets if not services or name in services)
        return [process for group in await asyncio.gather(*asking) for process in group]

    @property
    def services(self) -> Sequence[str]:
        """The names of the services whose processes are known."""
        return list(self._targets)

    async def set_log_level(
        self, services: Sequence[str], request: process_service_pb2.SetLogLevelRequest
    ) -> list[SetLogLevelResponse.Process]:
        """Change the log level of the processes of *services*; those that do not answer say why."""
        groups = await asyncio.gather(*(self._set_log_levels(service, request) for service in services))
        return [process for group in groups for process in group]

    async def _set_log_levels(
        self, service: str, request: process_service_pb2.SetLogLevelRequest
    ) -> list[SetLogLevelResponse.Process]:
        try:
            addresses = await self._resolve(self._targets[service])
        except OSError as error:
            text = f"its name does not resolve: {error}"
            return [SetLogLevelResponse.Process(service=service, address=self._targets[service], error=text)]
        return await asyncio.gather(*(self._set_one_log_level(service, each, request) for each in addresses))

    async def _set_one_log_level(
        self, service: str, address: str, request: process_service_pb2.SetLogLevelRequest
    ) -> SetLogLevelResponse.Process:
        process = SetLogLevelResponse.Process(service=service, address=address)
        try:
            async with channels.open_channel(
                address, [PROCESS_SERVICE], suite_token=self._suite_token, tls=self._tls
            ) as channel:
                stub = process_service_pb2_grpc.ProcessServiceStub(channel)
                await stub.SetLogLevel(request, timeout=_TIMEOUT_SECONDS)
        except aio.AioRpcError as error:
            process.error = channels.error_from_rpc(error, service).text
        except (OSError, ValueError) as error:
            process.error = str(error)
        return process

    async def _read_service(self, service: str) -> list[Process]:
        try:
            addresses = await self._resolve(self._targets[service])
        except OSError as error:
            return [_unanswered(service, self._targets[service], f"its name does not resolve: {error}")]
        return await asyncio.gather(*(self._ask(service, address) for address in addresses))

    async def _resolve(self, target: str) -> list[str]:
        """Return host:port of each replica behind *target*."""
        addresses = split_addresses(target)
        if len(addresses) > 1 or not may_be_several(target) or (self._tls and not self._tls.service_name):
            # Without a name of all services, the certificate is for the name in the address.
            return addresses[:_MAX_REPLICAS]
        host, _, port = target.rpartition(":")
        infos = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        hosts = sorted({str(info[4][0]) for info in infos})
        return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts[:_MAX_REPLICAS]]

    async def _ask(self, service: str, address: str) -> Process:
        try:
            async with channels.open_channel(
                address, [PROCESS_SERVICE], suite_token=self._suite_token, tls=self._tls
            ) as channel:
                stub = process_service_pb2_grpc.ProcessServiceStub(channel)
                start = datetime.now(UTC)
                response = await stub.GetProcess(
                    process_service_pb2.GetProcessRequest(), timeout=_TIMEOUT_SECONDS
                )
                end = datetime.now(UTC)
        except aio.AioRpcError as error:
            text = channels.error_from_rpc(error, service).text
            if error.code() in _SILENT_CODES:
                return Process(service=service, address=address, message=f"it reports no state: {text}")
            return _unanswered(service, address, text)
        except (OSError, ValueError) as error:
            return _unanswered(service, address, str(error))
        process: Process = response.process
        process.address = address
        offset = response.time.ToDatetime(UTC) - (start + (end - start) / 2)
        process.clock_offset.FromTimedelta(offset)
        if abs(offset) - (end - start) > _MAX_CLOCK_OFFSET:
            process.components.append(_clock(service, offset))
            process.status = max(process.status, DEGRADED)
        return process


def _clock(service: str, offset: timedelta) -> Component:
    side = "ahead of" if offset > timedelta() else "behind"
    text = f"its clock is {abs(offset.total_seconds()):.1f} s {side} that of the reporting process"
    return Component(component=f"{service}.clock", status=DEGRADED, message=text, remedy=CLOCKS)


def _unanswered(service: str, address: str, message: str) -> Process:
    process = Process(service=service, address=address, status=NOT_SERVING, message=message)
    process.components.add(
        component=service, status=NOT_SERVING, message=message, remedy=REMEDIES.get(service, "")
    )
    return process
