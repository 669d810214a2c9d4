"""jobs, seen from here."""

from __future__ import annotations

from grpc import aio

from reelhaul.work.v1 import lease_service_pb2, lease_service_pb2_grpc
from reelhaul_runtime.rpc.channels import status_as_errors


class RemoteLeases:
    """jobs' LeaseService as ``ports.Leases``."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = lease_service_pb2_grpc.LeaseServiceStub(channel)

    async def claim(self, request: lease_service_pb2.ClaimRequest) -> lease_service_pb2.ClaimResponse:
        """As ``ports.Leases.claim``."""
        with status_as_errors("jobs"):
            return await self._stub.Claim(request)

    async def renew(self, request: lease_service_pb2.RenewRequest) -> lease_service_pb2.RenewResponse:
        """As ``ports.Leases.renew``."""
        with status_as_errors("jobs"):
            return await self._stub.Renew(request)

    async def finish(self, request: lease_service_pb2.FinishRequest) -> lease_service_pb2.FinishResponse:
        """As ``ports.Leases.finish``."""
        with status_as_errors("jobs"):
            return await self._stub.Finish(request)
